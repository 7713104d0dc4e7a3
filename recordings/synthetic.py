"""A synthetic shop with known, drifting click and buy probabilities, against which a model can be measured.

A click's log-odds are a bias, a taste of the user's segment for the item's category that walks at random
over time, an item quality that is redrawn for some of the items from time to time, and the price. A buy
needs a click. ``truth.npy`` beside the recording holds the probability of every label, float32[impressions, tasks].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rillet.recordings.format import Event, RecordingInfo
from rillet.recordings.known_truth import Generated, in_time_order, write_with_truth
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, parse_spec
from rillet.schemas.arrays import Float32s, Float64s, Int64s
from rillet.schemas.ranges import check_above_zero

_BLOCK_REQUESTS = 256


@dataclass(frozen=True, slots=True)
class ShopConfig:
    """The size of the shop and how fast it changes."""

    users: int = 5_000
    items: int = 1_000
    segments: int = 8
    categories: int = 24
    tags: int = 200
    #: items on a page
    candidates: int = 10
    #: mean time between two requests, ms: 50,000 requests are half a day
    gap_ms: float = 1_000.0
    #: event time of the first request, epoch ms
    start_ms: int = 1_700_000_000_000
    #: standard deviation of a taste, and of its random walk over one hour of event time
    taste: float = 0.9
    drift_per_hour: float = 0.35
    #: share of the items whose quality is redrawn in one hour
    renewed_per_hour: float = 0.05

    def __post_init__(self) -> None:
        check_above_zero(self, "users", "items", "segments", "categories", "tags", "candidates", "gap_ms")
        if self.candidates > self.items:
            raise ValueError(f"candidates: {self.candidates} is more than the {self.items} items")


class Shop:
    """The drifting state; :meth:`requests` advances it in time."""

    def __init__(self, config: ShopConfig, seed: int) -> None:
        self.config = config
        self.spec = synthetic_spec()
        self._rng = rng = np.random.default_rng(seed)
        self._segment = rng.integers(0, config.segments, config.users)
        self._category = rng.integers(0, config.categories, config.items)
        self._log_price = rng.normal(0, 1, config.items).astype(np.float32)
        self._tag_counts = rng.integers(0, 4, config.items)
        self._tags = rng.integers(1, config.tags + 1, (config.items, 3))
        self._taste = rng.normal(0, config.taste, (config.segments, config.categories))
        self._quality = rng.normal(0, 0.7, config.items)
        # Few items and users are met often, most rarely (Zipf).
        self._item_weights = np.cumsum(1 / np.arange(1, config.items + 1) ** 0.8)
        self._user_weights = np.cumsum(1 / np.arange(1, config.users + 1) ** 0.6)
        self._item_fids = [
            self.spec.encode_side(
                "item",
                {"item": [i + 1], "category": [self._category[i]], "tags": [self._tags[i, : self._tag_counts[i]]]},
            )
            for i in range(config.items)
        ]

    def requests(self, count: int) -> Iterator[Generated]:
        """Generates ``count`` requests: the event, its actions, and the true probabilities float32[N, T]."""
        config, rng = self.config, self._rng
        time_ms = float(config.start_ms)
        for begin in range(0, count, _BLOCK_REQUESTS):
            n = min(_BLOCK_REQUESTS, count - begin)
            gaps = rng.exponential(config.gap_ms, n)
            self._drift(float(gaps.sum()) / 3_600_000)
            users = np.searchsorted(self._user_weights, rng.random(n) * self._user_weights[-1])
            for index in range(n):
                time_ms += gaps[index]
                yield self._request(f"synthetic-{begin + index:08d}", int(time_ms), int(users[index]))

    def _drift(self, hours: float) -> None:
        config, rng = self.config, self._rng
        step = rng.normal(0, config.drift_per_hour * np.sqrt(hours), self._taste.shape)
        # Pulled back to the mean, so that the spread of tastes stays what it was.
        keep = np.sqrt(max(0.0, 1 - (config.drift_per_hour / config.taste) ** 2 * hours)) if config.taste else 1.0
        self._taste = self._taste * keep + step
        renewed = rng.random(config.items) < config.renewed_per_hour * hours
        self._quality[renewed] = rng.normal(0, 0.7, int(renewed.sum()))

    def _request(self, request_id: str, time_ms: int, user: int) -> Generated:
        rng = self._rng
        items = self._page()
        segment = int(self._segment[user])
        score = self._taste[segment, self._category[items]] + self._quality[items] - 0.4 * self._log_price[items]
        click = _sigmoid(score - 2.2)
        buy_after_click = _sigmoid(0.8 * score - 1.0)
        clicked = rng.random(len(items)) < click
        bought = clicked & (rng.random(len(items)) < buy_after_click)
        context, _ = self.spec.encode_side(
            "context", {"user": [user + 1], "segment": [f"s{segment}"], "hour": [time_ms / 3_600_000 % 24]}
        )
        encoded = [self._item_fids[item] for item in items.tolist()]
        event = FeatureEvent(
            request_id=request_id,
            event_time_ms=time_ms,
            spec_hash=self.spec.hash,
            context_fids=context,
            impression_ids=items + 1,
            item_fids=np.concatenate([fids for fids, _ in encoded]),
            item_lengths=np.concatenate([lengths for _, lengths in encoded if lengths is not None]),
            dense=self._log_price[items],
        )
        actions = []
        for at in np.flatnonzero(clicked).tolist():
            when = time_ms + int(rng.integers(500, 60_000))
            actions.append(ActionEvent(request_id, when, int(items[at]) + 1, "click"))
            if bought[at]:
                later = when + int(rng.integers(5_000, 1_200_000))
                actions.append(ActionEvent(request_id, later, int(items[at]) + 1, "buy"))
        return event, actions, np.stack((click, click * buy_after_click), axis=1).astype(np.float32)

    def _page(self) -> Int64s:
        size = self.config.candidates
        page: dict[int, None] = {}
        while len(page) < size:
            drawn = np.searchsorted(self._item_weights, self._rng.random(2 * size) * self._item_weights[-1])
            page |= dict.fromkeys(drawn.tolist())
        return np.array(list(page)[:size], np.int64)


def synthetic_spec() -> FeatureSpec:
    """The feature spec of the synthetic shop."""
    return parse_spec(resources.files("rillet.recordings").joinpath("specs", "synthetic.toml").read_text("utf-8"))


def synthetic_events(
    requests: int, *, seed: int = 0, config: ShopConfig | None = None
) -> Iterator[tuple[Event, Float32s | None]]:
    """Events in event time order; feature events come with their true probabilities float32[N, T]."""
    return in_time_order(Shop(config or ShopConfig(), seed).requests(requests))


def generate_synthetic(out: Path, *, requests: int, seed: int = 0, config: ShopConfig | None = None) -> RecordingInfo:
    """Writes a synthetic recording with ``truth.npy`` into ``out``.

    :raises RecordingError: ``out`` cannot be written.
    """
    events = synthetic_events(requests, seed=seed, config=config)
    return write_with_truth(out, synthetic_spec(), "synthetic", seed, events)


def _sigmoid(x: Float64s) -> Float64s:
    return np.asarray(1 / (1 + np.exp(-x)))

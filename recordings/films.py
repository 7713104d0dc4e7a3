"""A shop of films with two tastes, of which all is known: scenarios for how fast and how right a model learns.

The example application of examples/films, played by simulated users. Half of the users like dramas, half comedies; a
film of the liked shelf is watched with one probability, any other film with another. Traffic is steady, or rises to
a peak and falls again. A model without history has to find the tastes (cold start), and rows of positives and negatives
that arrive at different times must not shift its scores (ramp). ``truth.npy`` beside the recording holds the
probability of every label, float32[impressions, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from rillet.recordings.format import Event, RecordingInfo
from rillet.recordings.known_truth import Generated, in_time_order, write_with_truth
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, parse_spec
from rillet.schemas.arrays import Float32s
from rillet.schemas.ranges import check_above_zero
from rillet.schemas.spec import LabelMode

SHELVES = ("drama", "comedy")


@dataclass(frozen=True, slots=True)
class FilmsConfig:
    """Who watches what, how soon, and how many requests there are at which time."""

    users: int = 40
    #: on both shelves together
    films: int = 50
    #: films drawn for a page; those drawn twice stand on it once, so it has 5.7 of them on average
    draws: int = 6
    #: probability that a film of the liked shelf is watched, and one of the other shelf
    liked_rate: float = 0.70
    other_rate: float = 0.05
    #: between page and action, ms: log-uniform, so that hours of a long window get their share
    fastest_ms: int = 1_000
    slowest_ms: int = 8_000
    #: traffic before and after the ramp
    requests_per_s: float = 10.0
    #: what traffic is multiplied by at the top of the ramp; it rises and falls in ramp_s each, after ramp_start_s
    peak: float = 1.0
    ramp_start_s: float = 0.0
    ramp_s: float = 3_600.0
    #: event time of the beginning, epoch ms
    start_ms: int = 1_700_000_000_000

    def __post_init__(self) -> None:
        check_above_zero(self, "users", "films", "draws", "fastest_ms", "requests_per_s", "peak", "ramp_s")
        for name in ("liked_rate", "other_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is no probability")
        if self.slowest_ms < self.fastest_ms:
            raise ValueError(f"slowest_ms: {self.slowest_ms} is below fastest_ms {self.fastest_ms}")

    def traffic(self, after_s: float) -> float:
        """Requests per second at a time after the beginning."""
        top = self.ramp_start_s + self.ramp_s
        height = max(0.0, 1 - abs(after_s - top) / self.ramp_s)
        return self.requests_per_s * (1 + (self.peak - 1) * height)


def films_spec(
    *, window_ms: int | None = None, negative_rate: float | None = None, labels: LabelMode | None = None
) -> FeatureSpec:
    """The feature spec of examples/films without its history, with what is given changed in its task."""
    spec = parse_spec(resources.files("rillet.recordings").joinpath("specs", "films.toml").read_text("utf-8"))
    task = spec.tasks[0]
    changed = replace(
        task,
        window_ms=task.window_ms if window_ms is None else window_ms,
        negative_rate=task.negative_rate if negative_rate is None else negative_rate,
        labels=labels or task.labels,
    )
    return replace(spec, tasks=(changed,))


def film_events(
    requests: int, *, seed: int = 0, spec: FeatureSpec | None = None, config: FilmsConfig | None = None
) -> Iterator[tuple[Event, Float32s | None]]:
    """Events in order of event time; feature events come with their true probabilities float32[N, 1]."""
    return in_time_order(_requests(requests, seed, spec or films_spec(), config or FilmsConfig()))


def generate_films(
    out: Path, *, requests: int, seed: int = 0, spec: FeatureSpec | None = None, config: FilmsConfig | None = None
) -> RecordingInfo:
    """Writes a recording of the scenario with ``truth.npy`` into ``out``.

    :param spec: None takes :func:`films_spec` as it stands.
    :raises RecordingError: ``out`` cannot be written.
    """
    spec = spec or films_spec()
    return write_with_truth(out, spec, "films", seed, film_events(requests, seed=seed, spec=spec, config=config))


def _requests(count: int, seed: int, spec: FeatureSpec, config: FilmsConfig) -> Iterator[Generated]:
    rng = np.random.default_rng(seed)
    films = np.arange(1, config.films + 1)
    shelf = films % 2
    item_fids, _ = spec.encode_side("item", {"film": films, "shelf": [SHELVES[s] for s in shelf]})
    item_fids = item_fids.reshape(config.films, -1)
    context_fids = spec.encode_side("context", {"user": np.arange(1, config.users + 1)})[0]
    after_s = 0.0
    for number in range(count):
        after_s += rng.exponential(1 / config.traffic(after_s))
        time_ms = config.start_ms + int(after_s * 1000)
        user = int(rng.integers(config.users))
        page = np.unique(rng.integers(0, config.films, config.draws))
        rng.shuffle(page)
        truth = np.where(shelf[page] == user % 2, config.liked_rate, config.other_rate).astype(np.float32)
        watched = np.flatnonzero(rng.random(len(page)) < truth)
        span = np.log(config.slowest_ms / config.fastest_ms)
        delays_ms = config.fastest_ms * np.exp(span * rng.random(len(watched)))
        request_id = f"films-{number:08d}"
        event = FeatureEvent(
            request_id=request_id,
            event_time_ms=time_ms,
            spec_hash=spec.hash,
            context_fids=context_fids[user : user + 1],
            impression_ids=films[page],
            item_fids=item_fids[page].reshape(-1),
        )
        actions = [
            ActionEvent(request_id, time_ms + int(delay_ms), int(films[page[at]]), spec.tasks[0].actions[0])
            for at, delay_ms in zip(watched.tolist(), delays_ms.tolist(), strict=True)
        ]
        yield event, actions, truth.reshape(-1, 1)

"""Baselines that count: how many positives an item has had, which any model has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, Slot
from rillet.schemas.arrays import Float32s, Float64s, Int64s
from rillet.schemas.fid import VALUE_BITS

#: half-lives after which faded counts are brought back into the range of their numbers
_RESCALE_HALF_LIVES = 64.0


def item_slot(spec: FeatureSpec) -> Slot | None:
    """The slot that says which item an impression shows: the first item slot with one value; None without any."""
    return next((slot for slot in spec.item if slot.max_values == 1), None)


class PopularityScorer:
    """Scores by the positives that an item has had, per task. With a half-life, old ones fade.

    Logits are log(1 + count): they rank, and are no probabilities.
    """

    def __init__(self, spec: FeatureSpec, half_life_ms: int | None = None) -> None:
        """
        :raises ValueError: no item slot has one value per impression.
        """
        slot = item_slot(spec)
        if slot is None:
            raise ValueError(f"feature spec {spec.name}: no item slot has one value per impression")
        self._slot = slot.slot
        self._tasks = len(spec.tasks)
        self._half_life_ms = half_life_ms
        #: served, and learned since the last publication; float64[T] of an item, as of ``_zero_ms``
        self._served: dict[int, Float64s] = {}
        self._learned: dict[int, Float64s] = {}
        self._zero_ms: int | None = None

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        labels = block.labels.reshape(-1, self._tasks)
        positive = np.flatnonzero(labels.any(axis=1))
        if not len(positive):
            return
        # Instead of fading all counts as time passes, a new positive weighs more.
        weight = 1.0 / self._fading(visible_ms)
        items = block.fids[block.fids >> VALUE_BITS == self._slot][positive]
        for item, label in zip(items.tolist(), labels[positive], strict=True):
            count = self._learned.get(item, self._served.get(item, 0.0))
            self._learned[item] = count + label * weight

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        self._served |= self._learned
        self._learned = {}

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        none = np.zeros(self._tasks)
        items = [self._items_of(event) for event in requests]
        counts = np.array([self._served.get(item, none) for fids in items for item in fids.tolist()])
        # Scores of different times are compared too, so each is as faded as it was at its own.
        faded = np.array([self._fading(event.event_time_ms) for event in requests])
        logits: Float32s = np.log1p(
            counts.reshape(-1, self._tasks) * np.repeat(faded, [len(fids) for fids in items])[:, None]
        ).astype(np.float32)
        return logits

    def close(self) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""

    def _items_of(self, event: FeatureEvent) -> Int64s:
        items: Int64s = event.item_fids[event.item_fids >> VALUE_BITS == self._slot]
        return items

    def _fading(self, time_ms: int) -> float:
        """What a count as of ``_zero_ms`` is multiplied with at a later time."""
        if self._half_life_ms is None:
            return 1.0
        if self._zero_ms is None:
            self._zero_ms = time_ms
        half_lives = (time_ms - self._zero_ms) / self._half_life_ms
        if half_lives > _RESCALE_HALF_LIVES:
            factor = 2.0**-half_lives
            for counts in (self._served, self._learned):
                for item in counts:
                    counts[item] = counts[item] * factor
            self._zero_ms, half_lives = time_ms, 0.0
        return float(2.0**-half_lives)

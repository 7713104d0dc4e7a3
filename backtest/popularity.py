"""Baselines that count: the share of an item's impressions that were positive, which any model has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, Slot
from rillet.schemas.arrays import Float32s, Float64s, Int64s
from rillet.schemas.fid import VALUE_BITS
from rillet.trainer.evaluation import row_weights

#: half-lives after which decayed counts are brought back into the range of their numbers
_RESCALE_HALF_LIVES = 64.0
#: of a weight: far beyond that range, far within that of float64
_MOST_HALF_LIVES = 256.0
#: impressions at the overall rate that each item starts with
PRIOR_IMPRESSIONS = 10.0
#: of a rate: no item is certain
_LOWEST_RATE = 1e-6


def item_slot(spec: FeatureSpec) -> Slot | None:
    """The slot that says which item an impression shows: the first item slot with one value; None without any."""
    return next((slot for slot in spec.item if slot.max_values == 1), None)


class PopularityScorer:
    """Scores by the rate of positives among an item's impressions, per task. With a half-life, old impressions decay.

    An impression's age is that of its request, whenever its rows come, so a positive weighs as much as the negative that
    it corrects. Rows count as :func:`~rillet.trainer.evaluation.row_weights` says, so that rates are those of unsampled
    impressions in every label mode. Each item starts with ``PRIOR_IMPRESSIONS`` at the overall rate.
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
        self._waiting: list[ExampleBlock] = []
        #: number of each item that has had a row
        self._number_of: dict[int, int] = {}
        #: positives and impressions as of ``_zero_ms``, float64[2, items, T]; the last item has had none
        self._counts: Float64s = np.zeros((2, 1, self._tasks))
        self._zero_ms: int | None = None
        #: overall rate at the last publication, float64[T]; one half before the first row
        self._overall: Float64s = np.full(self._tasks, 0.5)

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        self._waiting.append(block)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        if not self._waiting:
            return
        self._rescale(now_ms)
        blocks, self._waiting = self._waiting, []
        times_ms = np.minimum(np.concatenate([block.feature_time_ms for block in blocks]), now_ms)
        # Instead of all counts decaying as time passes, a newer impression weighs more.
        weights = self._weights(blocks) / self._decay(times_ms)[:, None]
        fids, rows = np.unique(
            np.concatenate([_of_slot(block.item_fids, self._slot) for block in blocks]), return_inverse=True
        )
        numbers = [self._number_of.setdefault(fid, len(self._number_of)) for fid in fids.tolist()]
        items = len(self._number_of) + 1
        if items > self._counts.shape[1]:
            # Twice the room, so that growing does not copy with each publication.
            room = np.zeros((2, 2 * items - self._counts.shape[1], self._tasks))
            self._counts = np.concatenate((self._counts, room), axis=1)
        for counts, of_rows in zip(self._counts, weights, strict=True):
            np.add.at(counts, np.array(numbers)[rows], of_rows)
        positives, impressions = self._counts.sum(axis=1) * self._decay(np.array([now_ms]))
        self._overall = (positives + 0.5) / (np.maximum(impressions, positives) + 1)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        items = [_of_slot(event.item_fids, self._slot) for event in requests]
        # The last item has had no rows.
        numbers = np.array([self._number_of.get(fid, -1) for fids in items for fid in fids.tolist()], np.int64)
        # Scores of different times are compared too, so each is as decayed as it was at its own.
        times_ms = np.array([event.event_time_ms for event in requests])
        decay = np.repeat(self._decay(times_ms), [len(fids) for fids in items])
        positives, impressions = self._counts[:, numbers] * decay[:, None]
        # Corrections of negatives that the sample left out can push positives past impressions.
        rates = (positives + PRIOR_IMPRESSIONS * self._overall) / (
            np.maximum(impressions, positives) + PRIOR_IMPRESSIONS
        )
        rates = np.clip(rates, _LOWEST_RATE, 1 - _LOWEST_RATE)
        logits: Float32s = np.log(rates / (1 - rates)).astype(np.float32)
        return logits

    def close(self) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""

    def _weights(self, blocks: Sequence[ExampleBlock]) -> Float64s:
        """What each of n rows adds to positives and impressions, float64[2, n, T]."""
        labels, mask = (
            np.concatenate([getattr(block, name) for block in blocks]).reshape(-1, self._tasks)
            for name in ("labels", "mask")
        )
        kinds = np.concatenate([block.label_kind for block in blocks])
        rates = np.concatenate([block.sampling_rate for block in blocks])
        of_tasks = [row_weights(labels[:, task], kinds, rates) for task in range(self._tasks)]
        negatives, positives = (np.stack(columns, axis=1) for columns in zip(*of_tasks, strict=True))
        weights: Float64s = np.stack((positives, negatives + positives)) * mask
        return weights

    def _decay(self, times_ms: Int64s) -> Float64s:
        """What a count as of ``_zero_ms`` is multiplied with at other times, float64[n]."""
        if self._half_life_ms is None or self._zero_ms is None:
            return np.ones(len(times_ms))
        # Bounded, so that what is long ago becomes next to nothing, and never infinitely much.
        half_lives = np.clip((self._zero_ms - times_ms) / self._half_life_ms, -_MOST_HALF_LIVES, _MOST_HALF_LIVES)
        return np.asarray(2.0**half_lives)

    def _rescale(self, now_ms: int) -> None:
        """Moves ``_zero_ms`` on before weights leave the range of their numbers."""
        if self._half_life_ms is None:
            return
        if self._zero_ms is None:
            self._zero_ms = now_ms
        elif now_ms - self._zero_ms > _RESCALE_HALF_LIVES * self._half_life_ms:
            self._counts *= self._decay(np.array([now_ms]))
            self._zero_ms = now_ms


def _of_slot(fids: Int64s, slot: int) -> Int64s:
    found: Int64s = fids[fids >> VALUE_BITS == slot]
    return found

"""What the demo shows while it runs: AUC over time and over the newest scores, quantiles of a Prometheus histogram."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rillet.schemas.arrays import AnyArray, Bools, Float32s, Float64s
from rillet.trainer.quality import auc, sigmoid

Floats = Float32s | Float64s


def windowed_auc(scores: Floats, labels: Bools, groups: AnyArray, count: int) -> list[float]:
    """AUC within each group 0 to count - 1 of rows; NaN where a group lacks a class."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(count + 1))
    return [auc(scores[order[a:b]], labels[order[a:b]]).value for a, b in pairwise(bounds)]


def histogram_quantile(bounds: Sequence[float], cumulative: Sequence[float], q: float) -> float:
    """The q-quantile of a cumulative histogram, linear within its bucket, as Prometheus computes it.

    :param bounds: increasing upper bounds, the last may be infinite.
    :param cumulative: observations at most each bound.
    :returns: NaN without observations; infinity when the quantile lies beyond the last finite bound.
    """
    total = cumulative[-1] if len(cumulative) else 0
    if not total:
        return float("nan")
    index = int(np.searchsorted(cumulative, q * total))
    if not np.isfinite(bounds[index]):
        return float("inf")
    low, below = (bounds[index - 1], cumulative[index - 1]) if index else (0.0, 0.0)
    inside = cumulative[index] - below
    return float(low + (bounds[index] - low) * (q * total - below) / inside) if inside else float(bounds[index])


class RunningAuc:
    """AUC over the newest scores, kept as two histograms of probabilities; constant work per request.

    Two halves: the older one is dropped when the newer one is full.
    """

    _BINS = 1024

    def __init__(self, window: int) -> None:
        """
        :param window: impressions that it looks back on, between half of it and all of it.
        """
        self._half = max(1, window // 2)
        self._rows = 0
        self._new = np.zeros((2, self._BINS))
        self._old = np.zeros((2, self._BINS))

    def add(self, logits: Floats, labels: Bools) -> None:
        """Impressions of one request."""
        bins = np.minimum((sigmoid(logits) * self._BINS).astype(np.int64), self._BINS - 1)
        np.add.at(self._new, (labels.astype(np.int64), bins), 1)
        self._rows += len(labels)
        if self._rows >= self._half:
            self._old, self._new, self._rows = self._new, np.zeros_like(self._new), 0

    def value(self) -> float:
        """The AUC now; NaN while a class is missing."""
        negative, positive = self._new + self._old
        pairs = negative.sum() * positive.sum()
        below = np.cumsum(negative) - negative / 2
        return float((positive * below).sum() / pairs) if pairs else float("nan")

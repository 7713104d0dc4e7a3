"""Progressive validation: how good a prediction was, measured before the model learns from its row.

AUC comes from a histogram of logits, so windows merge by adding counts; normalised entropy is log loss over
the entropy of the base rate (He et al. 2014, section 3); calibration is mean predicted over empirical. A
negative that survived sampling at rate r stands for 1/r negatives and is weighted so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rillet.schemas.arrays import Float32s, Float64s, UInt8s

#: Histogram of logits over [-LIMIT, LIMIT]; those outside are counted in the outermost bins.
LIMIT = 16.0
BINS = 4096

_SUMS = 3  # log loss, predicted mass, rows


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one task over one window; NaN where a class is missing."""

    auc: float
    normalised_entropy: float
    calibration: float
    #: weighted share of positives
    base_rate: float
    #: rows counted, without weights
    rows: int


class ScoreHistogram:
    """Mergeable counts of one task's scores: weighted positives and negatives by logit, and sums.

    >>> import numpy as np
    >>> histogram = ScoreHistogram()
    >>> logits, labels = np.array([2.0, -1.0, 0.5, 0.0], np.float32), np.array([1, 0, 0, 1], np.uint8)
    >>> histogram.add(logits, labels, rates=np.ones(4, np.float32))
    >>> metrics = histogram.metrics()
    >>> metrics.auc, metrics.base_rate, metrics.rows
    (0.75, 0.5, 4)
    """

    __slots__ = ("counts", "sums")

    def __init__(self, counts: Float64s | None = None, sums: Float64s | None = None) -> None:
        #: float64[2, BINS]: negatives, positives
        self.counts: Float64s = np.zeros((2, BINS)) if counts is None else counts
        #: float64[3]: weighted log loss, weighted predicted probability, rows
        self.sums: Float64s = np.zeros(_SUMS) if sums is None else sums

    def add(self, logits: Float32s, labels: UInt8s, rates: Float32s) -> None:
        """Counts n rows.

        :param logits: float32[n], as served (not corrected for sampling), finite.
        :param labels: uint8[n], 0 or 1.
        :param rates: float32[n], the rate at which negatives were kept.
        """
        z = logits.astype(np.float64)
        positive = labels != 0
        weight = np.where(positive, 1.0, 1.0 / rates.astype(np.float64))
        bins = np.clip((z + LIMIT) * (BINS / (2 * LIMIT)), 0, BINS - 1).astype(np.int64)
        flat = np.bincount(bins + BINS * positive, weight, 2 * BINS)
        self.counts += flat.reshape(2, BINS)
        # log(1 + e^-z) for positives, log(1 + e^z) for negatives, without overflow
        loss = np.logaddexp(0.0, np.where(positive, -z, z))
        self.sums += (weight @ loss, weight @ np.exp(-np.logaddexp(0.0, -z)), len(z))

    def merge(self, other: ScoreHistogram) -> None:
        """Adds another histogram's rows."""
        self.counts += other.counts
        self.sums += other.sums

    def metrics(self) -> Metrics:
        """Figures of all rows added; a tie within a bin counts one half."""
        negatives, positives = self.counts
        n, p = float(negatives.sum()), float(positives.sum())
        loss, predicted, rows = self.sums.tolist()
        auc = entropy = calibration = rate = float("nan")
        if n + p > 0:
            rate = p / (n + p)
        if p > 0:
            calibration = predicted / p
        if n > 0 and p > 0:
            below = np.cumsum(negatives) - 0.5 * negatives
            auc = float(positives @ below) / (n * p)
            entropy = loss / (-p * np.log(rate) - n * np.log1p(-rate))
        return Metrics(auc, float(entropy), calibration, rate, int(rows))


class WindowedMetrics:
    """Figures over about the last ``window_rows`` rows of each task. Rows leave the window in ``parts`` steps."""

    def __init__(self, tasks: int, window_rows: int, parts: int) -> None:
        self._part_rows = max(1, window_rows // parts)
        self._tasks = tasks
        self._counts = np.zeros((tasks, parts, 2, BINS))
        self._sums = np.zeros((tasks, parts, _SUMS))
        self._current = np.zeros(tasks, np.int64)

    def add(self, logits: Float32s, labels: UInt8s, mask: UInt8s, rates: Float32s) -> None:
        """Counts a batch: logits, labels, mask [n, T], rates [n]. Rows whose logit is not finite are left out."""
        for task in range(self._tasks):
            taught = (mask[:, task] != 0) & np.isfinite(logits[:, task])
            if taught.any():
                self._part(task).add(logits[taught, task], labels[taught, task], rates[taught])

    def metrics(self, task: int) -> Metrics:
        """Figures of one task's window."""
        return ScoreHistogram(self._counts[task].sum(0), self._sums[task].sum(0)).metrics()

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything, as arrays."""
        return {"counts": self._counts, "sums": self._sums, "current": self._current}

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Goes on from :meth:`state`; a window of another shape starts empty (its size was reconfigured)."""
        if state["counts"].shape == self._counts.shape:
            self._counts = np.array(state["counts"], np.float64)
            self._sums = np.array(state["sums"], np.float64)
            self._current = np.array(state["current"], np.int64)

    def _part(self, task: int) -> ScoreHistogram:
        current = int(self._current[task])
        if self._sums[task, current, 2] >= self._part_rows:
            current = (current + 1) % self._counts.shape[1]
            self._current[task] = current
            self._counts[task, current] = 0
            self._sums[task, current] = 0
        return ScoreHistogram(self._counts[task, current], self._sums[task, current])

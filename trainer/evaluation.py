"""Quality of served logits from bounded memory: a histogram of logits per class, and sums.

Normalised entropy is log loss over the entropy of the base rate (He et al. 2014, section 3); calibration is mean
predicted over mean observed. Both are exact. AUC is that of the binned logits: a pair within one bin counts one half.
:attr:`Metrics.auc_error` bounds what that changes. Exact figures with intervals, from all rows: ``trainer/quality.py``.

Rows are weighted so that each shown impression counts once, in expectation, whatever its rows: see :func:`row_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rillet.schemas import LabelKind
from rillet.schemas.arrays import Float32s, Float64s, Int64s, UInt8s

#: Histogram of logits over [-LIMIT, LIMIT]; those outside are counted in the outermost bins.
LIMIT = 16.0
BINS = 4096

#: log loss, predicted mass, rows
SUMS = 3


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one task; NaN where a class is missing."""

    auc: float
    #: the AUC of the logits themselves lies within this of ``auc``; exact ties count as if they could be wrong. Where
    #: corrections meet sampled negatives it is the bound for the weights that are left
    auc_error: float
    normalised_entropy: float
    calibration: float
    #: weighted share of positives
    base_rate: float
    #: rows counted, without weights
    rows: int
    #: of those, the ones with label 1
    positives: int


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """What n rows add to a histogram, computed for all of them at once."""

    #: int64[n]
    bins: Int64s
    #: float64[n] each, see :func:`row_weights`
    negative: Float64s
    positive: Float64s
    #: float64[SUMS, n]
    sums: Float64s

    @classmethod
    def of(cls, logits: Float32s, labels: UInt8s, kinds: UInt8s, rates: Float32s) -> ScoredRows:
        """See :meth:`ScoreHistogram.add`."""
        z = logits.astype(np.float64)
        negative, positive = row_weights(labels, kinds, rates)
        # By minimum and maximum, and by log1p: clip and logaddexp take twice as long, and this runs with every step.
        bins = np.minimum(np.maximum((z + LIMIT) * (BINS / (2 * LIMIT)), 0), BINS - 1).astype(np.int64)
        # log(1 + e^z), the loss of a negative, without overflow; that of a positive is less by z.
        softplus = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        weight = negative + positive
        sums = np.empty((SUMS, len(z)))
        sums[0] = weight * softplus - positive * z
        sums[1] = weight * np.exp(z - softplus)
        sums[2] = 1
        return cls(bins, negative, positive, sums)


class ScoreHistogram:
    """Mergeable counts of one task's scores: weighted negatives and positives by logit, and sums.

    >>> import numpy as np
    >>> histogram = ScoreHistogram()
    >>> logits, labels = np.array([2.0, -1.0, 0.5, 0.0], np.float32), np.array([1, 0, 0, 1], np.uint8)
    >>> histogram.add(logits, labels, kinds=1 - labels, rates=np.ones(4, np.float32))
    >>> metrics = histogram.metrics()
    >>> metrics.auc, metrics.base_rate, metrics.rows
    (0.75, 0.5, 4)
    """

    __slots__ = ("counts", "sums")

    def __init__(self, counts: Float64s | None = None, sums: Float64s | None = None) -> None:
        #: float64[2, BINS]: weights of negatives, of positives
        self.counts: Float64s = np.zeros((2, BINS)) if counts is None else counts
        #: float64[3]: weighted log loss, weighted predicted probability, rows
        self.sums: Float64s = np.zeros(SUMS) if sums is None else sums

    @property
    def rows(self) -> int:
        """Rows counted, without weights."""
        return int(self.sums[2])

    def add(self, logits: Float32s, labels: UInt8s, kinds: UInt8s, rates: Float32s) -> None:
        """Counts n rows; their order does not matter.

        :param logits: float32[n], as served (not corrected for sampling), finite.
        :param labels: uint8[n], 0 or 1.
        :param kinds: uint8[n], see :class:`rillet.schemas.LabelKind`.
        :param rates: float32[n], the rate at which negatives were kept.
        """
        rows = ScoredRows.of(logits, labels, kinds, rates)
        np.add.at(self.counts[0], rows.bins, rows.negative)
        np.add.at(self.counts[1], rows.bins, rows.positive)
        self.sums += rows.sums.sum(axis=1)

    def merge(self, other: ScoreHistogram) -> None:
        """Adds another histogram's rows."""
        self.counts += other.counts
        self.sums += other.sums

    def metrics(self) -> Metrics:
        """Figures of all rows added."""
        negatives, positives = self.counts
        n, p = float(negatives.sum()), float(positives.sum())
        loss, predicted, rows = self.sums.tolist()
        auc = error = entropy = calibration = rate = float("nan")
        if n + p > 0:
            rate = p / (n + p)
        if p > 0:
            calibration = predicted / p
        if n > 0 and p > 0:
            below = np.cumsum(negatives) - 0.5 * negatives
            # Corrections of negatives that the sample left out can push a figure of few rows past its bounds.
            auc = min(max(float(positives @ below) / (n * p), 0.0), 1.0)
            error = float(positives @ np.abs(negatives)) / (2 * n * p)
            entropy = loss / (-p * np.log(rate) - n * np.log1p(-rate))
        return Metrics(auc, error, float(entropy), calibration, rate, int(rows), round(p))


def row_weights(labels: UInt8s, kinds: UInt8s, rates: Float32s) -> tuple[Float64s, Float64s]:
    """By how much each row counts as a negative and as a positive, float64[n] each.

    A negative that survived sampling at rate r stands for 1/r negatives. A late positive follows such a negative of the same
    impression, which it takes away at the same logit, and adds a positive: exact. A correction follows a negative that went
    out if the sample kept it, and counted 1 in expectation: it takes 1 away. That is exact in expectation, and exact where
    all negatives are kept.
    """
    positive = (labels != 0).astype(np.float64)
    negative = (1 - positive - (kinds == LabelKind.LATE_POSITIVE)) / rates - (kinds == LabelKind.CORRECTION)
    return negative, positive

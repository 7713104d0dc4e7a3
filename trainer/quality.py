"""Exact quality of scores with confidence intervals: AUC, AUC within requests, normalised entropy, calibration.

Each metric is computed together with its influence function: how much every row moves it. Sums of influences over
clusters of rows (requests, or blocks of time) give a variance that holds when rows of a cluster are dependent, and the
difference of two models' influences on the same rows gives the interval of a paired comparison. No resampling.

Sources: Hanley and McNeil 1982 (AUC as a rank statistic); Obuchowski 1997 (clustered AUC); He et al. 2014, section 3
(normalised entropy); Zhou et al. 2018, section 5.3 (AUC within groups, weighted). Labels 0 or 1, scores are logits.
Every metric raises ValueError where a logit is NaN, a label is neither 0 nor 1, or the columns differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from rillet.schemas.arrays import AnyArray, Bools, Float32s, Float64s, Int64s

Floats = Float32s | Float64s


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval; NaN where it is not defined, such as an AUC without positives.

    >>> print(Estimate(0.59234, 0.58711, 0.59751, clusters=50))
    0.5923 [0.5871, 0.5975]
    """

    value: float
    low: float
    high: float
    #: clusters that the interval is made of; a single one tells nothing, its interval is everything
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero: for differences."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """A metric's value, and float64[n]: n times what each row adds to its deviation; the mean over rows is 0."""

    value: float
    rows: Float64s


def auc(logits: Floats, labels: Bools) -> Influence:
    """Area under the ROC curve: a random positive scores above a random negative; a tie counts one half."""
    logits, labels = _checked(logits, labels)
    n, positives = len(labels), int(np.count_nonzero(labels))
    if not 0 < positives < n:
        return Influence(float("nan"), np.full(n, np.nan))
    share = positives / n
    # Of the rows of the other class, the share that lies below each row, ties half.
    below = _share_below(logits, labels)
    value = float(below[labels].mean())
    rows = np.where(labels, (below - value) / share, (1 - below - value) / (1 - share))
    return Influence(value, rows)


def auc_within(logits: Floats, labels: Bools, groups: Int64s) -> Influence:
    """Mean over groups (requests) of the AUC within each, weighted by the group's rows; groups of one class are left out.

    :param groups: int64[n], equal for rows of one group; in any order.
    """
    logits, labels = _checked(logits, labels)
    n = len(labels)
    if len(groups) != n:
        raise ValueError(f"groups: {len(groups)} values for {n} rows")
    order = np.lexsort((logits, groups))
    g, z, y = groups[order], logits[order], labels[order].astype(np.float64)
    first = np.flatnonzero(np.r_[True, g[1:] != g[:-1]]) if n else np.empty(0, np.int64)
    sizes = np.diff(np.r_[first, n])
    positives = np.add.reduceat(y, first) if n else np.empty(0)
    negatives = sizes - positives
    usable = (positives > 0) & (negatives > 0)
    if not usable.any():
        return Influence(float("nan"), np.full(n, np.nan))
    # Negatives of the own group strictly below each row, plus half of those that tie with it.
    tie = np.flatnonzero(np.r_[True, (g[1:] != g[:-1]) | (z[1:] != z[:-1])])
    tie_of = np.repeat(np.arange(len(tie)), np.diff(np.r_[tie, n]))
    tied = np.add.reduceat(1 - y, tie)
    group_of = np.repeat(np.arange(len(first)), sizes)
    before_tie = (np.cumsum(tied) - tied)[tie_of]
    before_group = (np.cumsum(negatives) - negatives)[group_of]
    wins = np.add.reduceat(y * (before_tie - before_group + tied[tie_of] / 2), first)
    within = np.divide(wins, positives * negatives, out=np.zeros(len(first)), where=usable)
    weights = np.where(usable, sizes, 0)
    value = float(weights @ within / weights.sum())
    # A group's influence lies on its rows in equal parts; only its sum over a cluster matters.
    per_row = np.where(usable, (within - value) * n / weights.sum(), 0.0)
    rows = np.empty(n)
    rows[order] = per_row[group_of]
    return Influence(value, rows)


def normalised_entropy(logits: Floats, labels: Bools) -> Influence:
    """Mean log loss over the entropy of the base rate: 1 is as good as always predicting the base rate, lower is better."""
    logits, labels = _checked(logits, labels)
    n, rate = len(labels), float(labels.mean()) if len(labels) else 0.0
    if not 0 < rate < 1:
        return Influence(float("nan"), np.full(n, np.nan))
    loss = np.logaddexp(0.0, np.where(labels, -logits, logits))
    mean = float(loss.mean())
    entropy = float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
    if not np.isfinite(mean):  # certain, and wrong
        return Influence(mean, np.full(n, np.nan))
    slope = np.log1p(-rate) - np.log(rate)  # of the entropy, by the base rate
    rows = (loss - mean) / entropy - mean / entropy**2 * slope * (labels - rate)
    return Influence(mean / entropy, rows)


def calibration(logits: Floats, labels: Bools) -> Influence:
    """Mean predicted over mean observed: 1 is perfect, above it the model promises too much."""
    logits, labels = _checked(logits, labels)
    n = len(labels)
    if not n or not labels.any():
        return Influence(float("nan"), np.full(n, np.nan))
    predicted = sigmoid(logits)
    mean, rate = float(predicted.mean()), float(labels.mean())
    rows = (predicted - mean) / rate - mean / rate**2 * (labels - rate)
    return Influence(mean / rate, rows)


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of a figure from run to run under other seeds, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: float


def spread_of_runs(values: Sequence[float]) -> Spread | None:
    """The spread of single runs of one setting, which differ in nothing but their seed.

    Each setting has its own: seeds matter much to some models, and nothing to others.

    :returns: None where fewer than two runs have a value.

    >>> spread_of_runs([0.5, 1.0])
    Spread(variance=0.125, freedom=1)
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    return Spread(float(finite.var(ddof=1)), len(finite) - 1) if len(finite) > 1 else None


def sum_of_spreads(spreads: Iterable[Spread]) -> Spread | None:
    """The spread of a sum or difference of independent figures (Welch 1947); None where there are none.

    >>> sum_of_spreads([Spread(1.0, 2), Spread(1.0, 2)])
    Spread(variance=2.0, freedom=4.0)
    """
    found = list(spreads)
    variance = sum(spread.variance for spread in found)
    if not variance:
        return Spread(0.0, sum(spread.freedom for spread in found)) if found else None
    # By shares, since squares of small variances leave the range of their numbers.
    shares = sum((spread.variance / variance) ** 2 / spread.freedom for spread in found)
    return Spread(variance, 1 / shares)


def average(runs: Sequence[Influence]) -> Influence:
    """The mean over runs that judge the same rows: the figure of the setting rather than of one run."""
    return Influence(
        float(np.mean([run.value for run in runs])), np.mean([run.rows for run in runs], axis=0, dtype=np.float64)
    )


def estimate(
    influence: Influence, clusters: AnyArray, confidence: float = 0.95, *, spread: Spread | None = None
) -> Estimate:
    """A metric with its interval.

    The interval is of this very run, or these runs: it tells what other rows would change. What another seed would
    change it tells only with ``spread``. The two variances are added, and the quantile of Student's t is the mean of
    both's, weighted by the variances (Cochran and Cox 1950): it holds whichever of the two is the larger. One quantile for
    the sum (Satterthwaite 1946) holds in 88 of 100 where the luck of two runs is most of it, since two runs that happen to
    be alike let it believe the rows alone.

    :param clusters: [n], equal for rows that depend on each other (a request id, or a block of time).
    :param confidence: share of intervals that hold the truth.
    :param spread: of ``influence.value``; for a mean over k runs that of one run divided by k.
    :raises ValueError: clusters and rows differ in number.
    """
    if len(clusters) != len(influence.rows):
        raise ValueError(f"clusters: {len(clusters)} values for {len(influence.rows)} rows")
    if not np.isfinite(influence.value):
        return Estimate(influence.value, float("nan"), float("nan"), 0)
    _, cluster_of = np.unique(clusters, return_inverse=True)
    sums = np.bincount(cluster_of, influence.rows) / len(influence.rows)
    count = len(sums)
    if count < 2:
        return Estimate(influence.value, float("-inf"), float("inf"), count)
    variance = float(count / (count - 1) * (sums @ sums))
    reach = _t_quantile(0.5 + confidence / 2, count - 1) * math.sqrt(variance)
    if spread is not None and spread.variance > 0:
        both, of_spread = variance + spread.variance, _t_quantile(0.5 + confidence / 2, spread.freedom)
        reach = (reach * math.sqrt(variance) + of_spread * spread.variance) / math.sqrt(both)
    return Estimate(influence.value, influence.value - reach, influence.value + reach, count)


def difference(
    a: Influence, b: Influence, clusters: AnyArray, confidence: float = 0.95, *, spread: Spread | None = None
) -> Estimate:
    """``a`` minus ``b`` where both judge the same rows in the same order: the interval of a paired comparison.

    :param spread: of the difference: the sum of both.
    :raises ValueError: they are not of the same rows.
    """
    if len(a.rows) != len(b.rows):
        raise ValueError(f"one judges {len(a.rows)} rows, the other {len(b.rows)}: a paired comparison needs the same")
    return estimate(Influence(a.value - b.value, a.rows - b.rows), clusters, confidence, spread=spread)


def time_blocks(event_time_ms: Int64s, count: int) -> Int64s:
    """Numbers int64[n] of ``count`` stretches of event time with about equally many rows each."""
    order = np.argsort(event_time_ms, kind="stable")
    blocks = np.empty(len(order), np.int64)
    blocks[order] = np.arange(len(order)) * count // max(len(order), 1)
    return blocks


def sigmoid(logits: npt.ArrayLike) -> Float64s:
    """1 / (1 + exp(-x)), float64, without overflow."""
    x = np.asarray(logits, np.float64)
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _checked(logits: Floats, labels: Bools) -> tuple[Float64s, Bools]:
    """float64[n] and bool[n]; labels as integers are taken too, since an index and a mask are easily mixed up."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"logits {z.shape} and labels {y.shape}: expected one of each per row")
    if np.isnan(z).any():
        raise ValueError(f"logits: NaN in row {int(np.isnan(z).argmax())}; leave out rows without a score")
    if y.dtype != np.bool_ and not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels: {y[~np.isin(y, (0, 1))][0]} is neither 0 nor 1")
    return z, y.astype(np.bool_)


def _share_below(logits: Floats, labels: Bools) -> Float64s:
    """For each row the share of the other class's rows that score below it, ties half."""
    _, inverse = np.unique(logits, return_inverse=True)
    kinds = int(inverse.max()) + 1
    shares = []
    for other in (labels, ~labels):
        counts = np.bincount(inverse[other], minlength=kinds)
        shares.append(((np.cumsum(counts) - counts / 2) / counts.sum())[inverse])
    return np.where(labels, shares[1], shares[0])


@lru_cache(maxsize=1024)
def _t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, above the median.

    :param freedom: degrees of freedom, at least 1, whole or not. Up to 30 the density is summed up over the angle whose
        tangent is t / sqrt(freedom), which runs as its cosine to the power of freedom - 1 (Abramowitz and Stegun 26.7.3);
        above, it is the Cornish-Fisher expansion around the normal quantile (26.7.5), within 0.1 % of the truth there.
    """
    if freedom <= 30:
        # Of the complement of that angle, by its square root: the points lie closest where t is large.
        roots = np.linspace(0, math.sqrt(math.pi / 2), 4_001)
        densities = np.sin(roots**2) ** (freedom - 1) * roots
        shares = np.concatenate(([0.0], np.cumsum(densities[1:] + densities[:-1])))
        root = float(np.interp(2 * (1 - probability) * shares[-1], shares, roots))
        return math.sqrt(freedom) / math.tan(root**2)
    z = NormalDist().inv_cdf(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3

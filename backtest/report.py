"""What a backtest found: quality of every scorer with confidence intervals, over time, by slot, and against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.backtest.names import SEEDED_BASELINES, SERVED
from rillet.backtest.settings import Setup
from rillet.backtest.slots import split_by_slot
from rillet.schemas.arrays import Bools, Float32s, Int64s
from rillet.trainer.quality import (
    Estimate,
    Influence,
    Spread,
    auc,
    auc_within,
    average,
    calibration,
    estimate,
    normalised_entropy,
    spread_of_runs,
    sum_of_spreads,
    time_blocks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Intervals are made of this many stretches of event time: labels, traffic and the state of a model hang together
#: within minutes, so requests are no independent sample.
BLOCKS = 50
#: stretches that have to hold positives, and negatives, for an interval: fewer say too little about each other
MIN_BLOCKS = 10
#: points of a curve
POINTS = 40
_METRICS = {"auc": auc, "normalised_entropy": normalised_entropy, "calibration": calibration}


@dataclass(frozen=True)
class BacktestReport:
    """Scores of M impressions by several scorers, and their labels by the recording's own spec.

    A task is judged on requests from ``judged_from_ms`` on whose label window had closed when the recording ended: of
    later ones, actions may be missing.
    """

    expected: ExpectedExamples
    #: scorer to float32[M, T], impressions in the order of ``expected``; variants first, then baselines
    logits: Mapping[str, Float32s]
    judged_from_ms: int
    #: until when the recording tells what happened: its newest event, leaving out clocks that are far ahead
    last_event_ms: int
    #: variants by name; the baselines are of the first
    setups: Mapping[str, Setup] = field(default_factory=dict)
    #: what happened to the events in the joiner of each variant
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: scores of further runs of variants and baselines under other seeds; curves and slots are of the first
    repeats: Mapping[str, tuple[Float32s, ...]] = field(default_factory=dict)
    #: rows that each variant's trainer was given, int64[T, 2]: negatives and positives
    learned: Mapping[str, Int64s] = field(default_factory=dict)
    recording: str = ""

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Variants, baselines, and ``served`` where the recording holds served logits of judged impressions."""
        served = (self.judged & self._is_served[:, None]).any()
        return (*self.logits, SERVED) if served else tuple(self.logits)

    @property
    def first(self) -> str:
        """The scorer that the others are compared with."""
        return next(iter(self.logits))

    @cached_property
    def judged(self) -> Bools:
        """Impressions that are judged, bool[M, T]."""
        judged: Bools = (self._times >= self.judged_from_ms)[:, None] & self._closed
        return judged

    @cached_property
    def left_out(self) -> list[int]:
        """For each task, impressions that are not judged because their label window was open at the recording's end."""
        late = (self._times >= self.judged_from_ms)[:, None] & ~self._closed
        counts: list[int] = late.sum(axis=0).tolist()
        return counts

    def influence(self, scorer: str, metric: str, task: int = 0) -> Influence:
        """A metric of one scorer's first run over the judged impressions; of ``served``, over those that hold its logits.

        :param metric: one of ``METRICS``.
        """
        return self._measure(self._runs(scorer)[0], metric, task, self._rows(task, scorer == SERVED))

    def estimate(self, scorer: str, metric: str, task: int = 0) -> Estimate:
        """The metric with its 95 % interval: the mean of the runs, where there are several.

        The interval is everything where fewer than ``MIN_BLOCKS`` stretches of time hold positives, or negatives.
        """
        served = scorer == SERVED
        runs = self._summed(scorer, metric, task, served)
        return self._with_interval(average(runs), metric, task, served, _spread(runs))

    def difference(self, scorer: str, other: str, metric: str, task: int = 0) -> Estimate:
        """``scorer`` minus ``other``, paired over the same impressions, with its 95 % interval.

        The luck of a single run cannot be told from what a setting changes: without repeats, the difference of two
        scorers that depend on a seed has no interval, it is everything. Variants that learn the same and are only
        published or applied at other times share their luck.
        """
        served = SERVED in (scorer, other)
        of_each = [self._summed(name, metric, task, served) for name in (scorer, other)]
        first, second = (average(runs) for runs in of_each)
        between = Influence(first.value - second.value, first.rows - second.rows)
        spreads = [] if self.learn_alike(scorer, other) else [_spread(runs) for runs in of_each]
        found = self._with_interval(
            between, metric, task, served, sum_of_spreads(spread for spread in spreads if spread is not None)
        )
        if self.is_one_run(scorer, other):
            return replace(found, low=-math.inf, high=math.inf)
        return found

    def is_one_run(self, scorer: str, other: str) -> bool:
        """Whether the difference of two scorers cannot be told from the luck of a seed: each ran once, and not alike."""
        seeded = all(name in self.setups or name in SEEDED_BASELINES for name in (scorer, other))
        repeated = all(len(self._runs(name)) > 1 for name in (scorer, other))
        return scorer != other and seeded and not repeated and not self.learn_alike(scorer, other)

    def learn_alike(self, scorer: str, other: str) -> bool:
        """Whether two variants differ in nothing that training knows of."""
        a, b = self.setups.get(scorer), self.setups.get(other)
        return a is not None and b is not None and a.training == b.training

    def edges_ms(self, points: int = POINTS) -> Int64s:
        """Bounds of equal stretches of event time that hold the recording's impressions, int64[points + 1].

        Those of clocks so far ahead that they are no part of the recording's time (``last_event_ms``) lie outside.
        """
        first = int(self._times.min())
        last = max(int(self._times.max(initial=first, where=self._times <= self.last_event_ms)), first) + 1
        return first + np.arange(points + 1, dtype=np.int64) * (last - first) // points

    def over_time(self, scorer: str, metric: str = "auc", points: int = POINTS, task: int = 0) -> list[float]:
        """A metric within each stretch of :meth:`edges_ms`, over all impressions whose label window had closed.

        NaN where it has no value.
        """
        # By its edges, so that no rounding puts a row beside the stretch that it is drawn in.
        bounds = np.searchsorted(self._times[self._by_time], self.edges_ms(points))
        found = []
        for a, b in pairwise(bounds.tolist()):
            rows = self._by_time[a:b]
            rows = self._known(scorer, rows[self._closed[rows, task]])
            found.append(self._measure(self._runs(scorer)[0], metric, task, rows).value)
        return found

    def by_slot(self, slot: str, scorer: str, task: int = 0, values: int = 10) -> list[dict[str, Any]]:
        """Quality among the judged impressions of each of the most frequent values of a slot, and of all others.

        :returns: dictionaries of value, rows, positives, and :class:`Estimate` of auc and calibration.
        :raises SpecError: no such slot.
        """
        found = []
        for value, part in self._split(slot, task, values).items():
            rows = self._known(scorer, part)
            entry: dict[str, Any] = {
                "value": value,
                "rows": len(rows),
                "positives": int(self.expected.positive[rows, task].sum()),
            }
            for metric in ("auc", "calibration"):
                influence = self._measure(self._runs(scorer)[0], metric, task, rows)
                entry[metric] = self._bounded(
                    estimate(influence, self._block_of(task)[self.expected.request[rows]]),
                    self._has_enough_blocks(metric, task, rows),
                )
            found.append(entry)
        return found

    def plot(self, metric: str = "auc", task: int = 0) -> Figure:
        """One metric of all scorers over event time, as a matplotlib figure."""
        from rillet.backtest.charts import curves_figure

        return curves_figure(self, metric, task)

    def plot_axis(self, key: str, metric: str = "auc", task: int = 0) -> Figure:
        """One metric by the values of a setting that was varied, with intervals, as a matplotlib figure."""
        from rillet.backtest.charts import axis_figure

        return axis_figure(self, key, metric, task)

    def table(self, slots: Sequence[str] = ()) -> str:
        """The figures as text: quality of each scorer, differences to the first, and values of slots."""
        from rillet.backtest.text import table

        return table(self, slots)

    def to_html(self, slots: Sequence[str] = ()) -> str:
        """The report page, one self-contained file."""
        from rillet.backtest.page import render

        return render(self, slots)

    def to_json(self, slots: Sequence[str] = ()) -> dict[str, Any]:
        """Plain values, for ``--json``; what has no value is None."""
        from rillet.backtest.text import plain

        return plain(self, slots)

    def _measure(self, scores: Float32s, metric: str, task: int, rows: Int64s) -> Influence:
        logits = scores[rows, task].astype(np.float64)
        labels = self.expected.positive[rows, task]
        if metric == "auc_within":
            return auc_within(logits, labels, self.expected.request[rows])
        return _METRICS[metric](logits, labels)

    def _summed(self, scorer: str, metric: str, task: int, served: bool) -> list[Influence]:
        """For each run, the influence of each block of time that holds rows instead of each row: all intervals need."""
        key = (scorer, metric, task, served)
        if key not in self._sums:
            rows = self._rows(task, served)
            _, blocks = np.unique(self._block_of(task)[self.expected.request[rows]], return_inverse=True)
            count = int(blocks.max()) + 1 if len(blocks) else 0
            runs = [self._measure(logits, metric, task, rows) for logits in self._runs(scorer)]
            self._sums[key] = [
                Influence(run.value, np.bincount(blocks, run.rows, count) * (count / max(len(rows), 1))) for run in runs
            ]
        return self._sums[key]

    def _with_interval(
        self, summed: Influence, metric: str, task: int, served: bool, spread: Spread | None
    ) -> Estimate:
        key = (metric == "auc_within", task, served)
        if key not in self._enough:
            self._enough[key] = self._has_enough_blocks(metric, task, self._rows(task, served))
        return self._bounded(estimate(summed, np.arange(len(summed.rows)), spread=spread), self._enough[key])

    @staticmethod
    def _bounded(found: Estimate, enough_blocks: bool) -> Estimate:
        if enough_blocks or not math.isfinite(found.value):
            return found
        return replace(found, low=-math.inf, high=math.inf, clusters=min(found.clusters, MIN_BLOCKS - 1))

    def _has_enough_blocks(self, metric: str, task: int, rows: Int64s) -> bool:
        """Whether ``MIN_BLOCKS`` stretches hold positives, and as many negatives, that the metric counts."""
        requests, labels = self.expected.request[rows], self.expected.positive[rows, task]
        counted = np.ones(len(rows), np.bool_)
        if metric == "auc_within":  # requests of one class are not counted
            positives, sizes = np.bincount(requests, labels), np.bincount(requests)
            counted = ((positives > 0) & (positives < sizes))[requests]
        blocks = self._block_of(task)[requests]
        return min(len(np.unique(blocks[counted & (labels == label)])) for label in (False, True)) >= MIN_BLOCKS

    def _runs(self, scorer: str) -> list[Float32s]:
        if scorer == SERVED:
            return [self.expected.served_logits]
        return [self.logits[scorer], *self.repeats.get(scorer, ())]

    def _known(self, scorer: str, rows: Int64s) -> Int64s:
        """The rows that a scorer has a score for."""
        return rows[self._is_served[rows]] if scorer == SERVED else rows

    def _rows(self, task: int, served: bool) -> Int64s:
        """Judged rows of a task; with ``served``, those of them that hold logits."""
        rows = np.flatnonzero(self.judged[:, task])
        return self._known(SERVED, rows) if served else rows

    def _split(self, slot: str, task: int, values: int) -> dict[str, Int64s]:
        key = (slot, task, values)
        if key not in self._splits:
            self._splits[key] = split_by_slot(self.expected, slot, self._rows(task, False), values)
        return self._splits[key]

    def _block_of(self, task: int) -> Int64s:
        """Block of time of each request, int64[R]; only of judged ones. A request is in one block as a whole."""
        if task not in self._blocks:
            judged = np.zeros(len(self.expected.feature_time_ms), np.bool_)
            judged[self.expected.request[self._rows(task, False)]] = True
            blocks = np.zeros(len(judged), np.int64)
            blocks[judged] = time_blocks(self.expected.feature_time_ms[judged], BLOCKS)
            self._blocks[task] = blocks
        return self._blocks[task]

    @cached_property
    def _sums(self) -> dict[tuple[str, str, int, bool], list[Influence]]:
        return {}

    @cached_property
    def _enough(self) -> dict[tuple[bool, int, bool], bool]:
        return {}

    @cached_property
    def _blocks(self) -> dict[int, Int64s]:
        return {}

    @cached_property
    def _splits(self) -> dict[tuple[str, int, int], dict[str, Int64s]]:
        return {}

    @cached_property
    def _closed(self) -> Bools:
        """Whether the recording holds all events of an impression's label window, bool[M, T]."""
        waits = np.array([task.window_ms + task.early_ms for task in self.expected.spec.tasks], np.int64)
        closed: Bools = self._times[:, None] + waits <= self.last_event_ms
        return closed

    @cached_property
    def _times(self) -> Int64s:
        return self.expected.feature_time_ms[self.expected.request]

    @cached_property
    def _by_time(self) -> Int64s:
        return np.argsort(self._times, kind="stable")

    @cached_property
    def _is_served(self) -> Bools:
        served: Bools = np.isfinite(self.expected.served_logits).all(axis=1)
        return served


def _spread(runs: Sequence[Influence]) -> Spread | None:
    """What other seeds change in the mean of a scorer's runs; None where it ran once."""
    of_run = spread_of_runs([run.value for run in runs])
    return of_run and Spread(of_run.variance / len(runs), of_run.freedom)

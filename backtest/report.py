"""What a backtest found: quality of every scorer with confidence intervals, over time, by slot, and against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
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
    difference,
    estimate,
    normalised_entropy,
    spread_of_runs,
    time_blocks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Intervals are made of this many stretches of event time: labels, traffic and the state of a model hang together
#: within minutes, so requests are no independent sample.
BLOCKS = 50
#: points of a curve
POINTS = 40
#: said of a comparison without repeats
ONE_RUN = "(one run): luck cannot be told from a setting; --seeds 3 repeats each, and gives differences an interval"
METRICS = ("auc", "auc_within", "normalised_entropy", "calibration")
BASELINES = ("frozen", "logistic", "popularity", "decayed_popularity")
#: those whose scores depend on a seed
_SEEDED_BASELINES = ("frozen", "logistic")
#: the scores that the recording itself holds
SERVED = "served"


@dataclass(frozen=True)
class BacktestReport:
    """Scores of M impressions by several scorers, and their labels by the recording's own spec."""

    expected: ExpectedExamples
    #: scorer to float32[M, T], impressions in the order of ``expected``; variants first, then baselines
    logits: Mapping[str, Float32s]
    judged_from_ms: int
    #: variants by name; the baselines are of the first
    setups: Mapping[str, Setup] = field(default_factory=dict)
    #: what happened to the events in the joiner of each variant
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    #: scores of further runs of the variants under other seeds; curves and slots are of the first
    repeats: Mapping[str, tuple[Float32s, ...]] = field(default_factory=dict)
    recording: str = ""

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Variants, baselines, and :data:`SERVED` where the recording holds served logits of judged impressions."""
        return (*self.logits, SERVED) if len(self._served_rows) else tuple(self.logits)

    @property
    def first(self) -> str:
        """The scorer that the others are compared with."""
        return next(iter(self.logits))

    @cached_property
    def judged(self) -> Bools:
        """Impressions that are judged, bool[M]."""
        judged: Bools = self._times >= self.judged_from_ms
        return judged

    def influence(self, scorer: str, metric: str, task: int = 0) -> Influence:
        """A metric of one scorer's first run over the judged impressions; of ``served``, over those that hold its logits.

        :param metric: one of ``METRICS``.
        """
        rows = self._served_rows if scorer == SERVED else self._judged_rows
        return self._measure(self._runs(scorer)[0], metric, task, rows)

    def estimate(self, scorer: str, metric: str, task: int = 0) -> Estimate:
        """The metric with its 95 % interval: the mean of the runs, where a variant has several."""
        key = (scorer, metric, task, scorer == SERVED)
        return estimate(average(self._summed(*key)), np.arange(BLOCKS), spread=self._spread(*key))

    def difference(self, scorer: str, other: str, metric: str, task: int = 0) -> Estimate:
        """``scorer`` minus ``other``, paired over the same impressions, with its 95 % interval.

        The luck of a single run cannot be told from what a setting changes: two variants that ran once have no interval,
        it is everything. Variants that learn the same and are only published or applied at other times share their luck.
        """
        served = SERVED in (scorer, other)
        keys = [(name, metric, task, served) for name in (scorer, other)]
        alike = self._learn_alike(scorer, other)
        spreads = [] if alike else [spread for key in keys if (spread := self._spread(*key)) is not None]
        both = Spread(sum(one.variance for one in spreads), spreads[0].freedom) if spreads else None
        first, second = (average(self._summed(*key)) for key in keys)
        found = difference(first, second, np.arange(BLOCKS), spread=both)
        if both is None and not alike and scorer in self.setups and other in self.setups:
            return replace(found, low=-math.inf, high=math.inf)
        return found

    def edges_ms(self, points: int = POINTS) -> Int64s:
        """Bounds of equal stretches of event time that hold all impressions, int64[points + 1]."""
        first, last = int(self._times.min()), int(self._times.max()) + 1
        return first + np.arange(points + 1, dtype=np.int64) * (last - first) // points

    def over_time(self, scorer: str, metric: str = "auc", points: int = POINTS, task: int = 0) -> list[float]:
        """A metric within each stretch of :meth:`edges_ms`, over all impressions, NaN where it has no value."""
        # By its edges, so that no rounding puts a row beside the stretch that it is drawn in.
        bounds = np.searchsorted(self._times[self._by_time], self.edges_ms(points))
        return [
            self._measure(self._runs(scorer)[0], metric, task, self._known(scorer, self._by_time[a:b])).value
            for a, b in pairwise(bounds.tolist())
        ]

    def by_slot(self, slot: str, scorer: str, task: int = 0, values: int = 10) -> list[dict[str, Any]]:
        """Quality among the judged impressions of each of the most frequent values of a slot, and of all others.

        :returns: dictionaries of value, rows, positives, and :class:`Estimate` of auc and calibration.
        :raises SpecError: no such slot.
        """
        found = []
        for value, part in self._split(slot, values).items():
            rows = self._known(scorer, part)
            entry: dict[str, Any] = {
                "value": value,
                "rows": len(rows),
                "positives": int(self.expected.positive[rows, task].sum()),
            }
            for metric in ("auc", "calibration"):
                if is_defined(scorer, metric):
                    entry[metric] = estimate(
                        self._measure(self._runs(scorer)[0], metric, task, rows),
                        self._block_of[self.expected.request[rows]],
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

    def to_html(self, slots: Sequence[str] = ()) -> str:
        """The report page, one self-contained file."""
        from rillet.backtest.page import render

        return render(self, slots)

    def to_json(self, slots: Sequence[str] = ()) -> dict[str, Any]:
        """Plain values, for ``--json``; what has no value is None."""
        tasks = [(index, task.name) for index, task in enumerate(self.expected.spec.tasks)]
        others = [scorer for scorer in self.scorers if scorer != self.first]
        plain: dict[str, Any] = without_nan(
            {
                "recording": self.recording,
                "requests": len(self.expected.request_ids),
                "impressions": len(self.expected.request),
                "judged_from_ms": self.judged_from_ms,
                "judged_impressions": int(self.judged.sum()),
                "variants": {
                    name: setup.to_json() | {"joiner_counters": dict(self.counters.get(name, {}))}
                    for name, setup in self.setups.items()
                },
                "tasks": {name: self._figures(self.scorers, partial(self.estimate, task=i)) for i, name in tasks},
                "compared_with": self.first,
                "differences": {
                    name: self._figures(others, partial(self._difference_to_first, task=i)) for i, name in tasks
                },
                "curves": {
                    "edges_ms": self.edges_ms().tolist(),
                    "tasks": {
                        name: {
                            scorer: {m: self.over_time(scorer, m, task=i) for m in METRICS if is_defined(scorer, m)}
                            for scorer in self.scorers
                        }
                        for i, name in tasks
                    },
                },
                "slots": {
                    slot: {name: {s: self.by_slot(slot, s, i) for s in self.scorers} for i, name in tasks}
                    for slot in slots
                },
            }
        )
        return plain

    def table(self, slots: Sequence[str] = ()) -> str:
        """The figures as text: quality of each scorer, differences to the first, and values of slots."""
        width = max(len(scorer) for scorer in self.scorers) + 2
        head = "".join(f"{metric:>27}" for metric in METRICS)
        lines: list[str] = []
        for index, task in enumerate(self.expected.spec.tasks):
            lines += ["", f"{task.name:{width}}{head}"]
            for scorer in self.scorers:
                cells = [
                    show_estimate(self.estimate(scorer, m, index)) if is_defined(scorer, m) else "-" for m in METRICS
                ]
                lines.append(f"{scorer:{width}}" + "".join(f"{cell:>27}" for cell in cells))
            if len(self.scorers) > 1:
                lines += ["", f"difference to {self.first}"]
            for scorer in self.scorers:
                if scorer == self.first:
                    continue
                cells = [
                    show_estimate(self.difference(scorer, self.first, m, index), sign="+")
                    if is_defined(scorer, m)
                    else "-"
                    for m in METRICS
                ]
                lines.append(f"{scorer:{width}}" + "".join(f"{cell:>27}" for cell in cells))
            for slot in slots:
                lines += ["", f"{task.name} by {slot}"]
                for scorer in self.scorers:
                    lines.append(f"{scorer:{width}}{'rows':>10}{'positives':>11}{'auc':>27}{'calibration':>27}")
                    for row in self.by_slot(slot, scorer, index):
                        cells = [show_estimate(row[m]) if m in row else "-" for m in ("auc", "calibration")]
                        lines.append(
                            f"  {row['value']:{width - 2}}{row['rows']:>10,}{row['positives']:>11,}"
                            + "".join(f"{cell:>27}" for cell in cells)
                        )
        if self.is_single_comparison:
            lines += ["", ONE_RUN]
        return "\n".join(lines[1:])

    @property
    def is_single_comparison(self) -> bool:
        """Whether variants are compared that ran once each, and do not learn the same."""
        return not any(self.repeats.values()) and not all(self._learn_alike(self.first, name) for name in self.setups)

    def _difference_to_first(self, scorer: str, metric: str, task: int) -> Estimate:
        return self.difference(scorer, self.first, metric, task)

    @staticmethod
    def _figures(scorers: Sequence[str], of: Callable[[str, str], Estimate]) -> dict[str, dict[str, Estimate]]:
        return {
            scorer: {metric: of(scorer, metric) for metric in METRICS if is_defined(scorer, metric)}
            for scorer in scorers
        }

    def _measure(self, scores: Float32s, metric: str, task: int, rows: Int64s) -> Influence:
        logits = scores[rows, task]
        labels = self.expected.positive[rows, task]
        if metric == "auc":
            return auc(logits, labels)
        if metric == "auc_within":
            return auc_within(logits, labels, self.expected.request[rows])
        of_probabilities = {"normalised_entropy": normalised_entropy, "calibration": calibration}[metric]
        return of_probabilities(logits.astype(np.float64), labels)

    def _summed(self, scorer: str, metric: str, task: int, served: bool) -> list[Influence]:
        """For each run, the influence of each block of time instead of each row: all that intervals need."""
        key = (scorer, metric, task, served)
        if key not in self._sums:
            rows = self._served_rows if served else self._judged_rows
            blocks = self._block_of[self.expected.request[rows]]
            scale = BLOCKS / max(len(rows), 1)
            runs = [self._measure(logits, metric, task, rows) for logits in self._runs(scorer)]
            self._sums[key] = [Influence(run.value, np.bincount(blocks, run.rows, BLOCKS) * scale) for run in runs]
        return self._sums[key]

    def _learn_alike(self, scorer: str, other: str) -> bool:
        """Whether two variants differ in nothing that training knows of."""
        a, b = self.setups.get(scorer), self.setups.get(other)
        return (
            a is not None
            and b is not None
            and (a.config, a.spec, a.delays.commit_ms) == (b.config, b.spec, b.delays.commit_ms)
        )

    def _spread(self, scorer: str, metric: str, task: int, served: bool) -> Spread | None:
        """What other seeds change in a scorer's figure, by all variants together; None where that is not known."""
        if not (scorer in self.setups or scorer in _SEEDED_BASELINES):
            return None
        values = [[run.value for run in self._summed(name, metric, task, served)] for name in self.setups]
        of_run = spread_of_runs(values)
        return of_run and Spread(of_run.variance / len(self._runs(scorer)), of_run.freedom)

    def _runs(self, scorer: str) -> list[Float32s]:
        if scorer == SERVED:
            return [self.expected.served_logits]
        return [self.logits[scorer], *self.repeats.get(scorer, ())]

    def _known(self, scorer: str, rows: Int64s) -> Int64s:
        """The rows that a scorer has a score for."""
        return rows[self._is_served[rows]] if scorer == SERVED else rows

    def _split(self, slot: str, values: int) -> dict[str, Int64s]:
        key = (slot, values)
        if key not in self._splits:
            self._splits[key] = split_by_slot(self.expected, slot, self._judged_rows, values)
        return self._splits[key]

    @cached_property
    def _sums(self) -> dict[tuple[str, str, int, bool], list[Influence]]:
        return {}

    @cached_property
    def _splits(self) -> dict[tuple[str, int], dict[str, Int64s]]:
        return {}

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

    @cached_property
    def _judged_rows(self) -> Int64s:
        return np.flatnonzero(self.judged)

    @cached_property
    def _served_rows(self) -> Int64s:
        return np.flatnonzero(self.judged & self._is_served)

    @cached_property
    def _block_of(self) -> Int64s:
        """Block of time of each request, int64[R]; only of judged ones. A request is in one block as a whole."""
        judged = self.expected.feature_time_ms >= self.judged_from_ms
        blocks = np.zeros(len(judged), np.int64)
        blocks[judged] = time_blocks(self.expected.feature_time_ms[judged], BLOCKS)
        return blocks


def is_defined(scorer: str, metric: str) -> bool:
    """Whether a scorer has a metric: popularity ranks, its counts are no probabilities."""
    return metric.startswith("auc") or scorer not in ("popularity", "decayed_popularity")


def without_nan(value: Any) -> Any:
    """Values that JSON knows: estimates as dictionaries, and None for what is not finite."""
    if isinstance(value, Estimate):
        value = {"value": value.value, "low": value.low, "high": value.high}
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_estimate(found: Estimate, sign: str = "") -> str:
    """A figure with its interval as text."""
    if math.isnan(found.value):
        return "-"
    if math.isinf(found.high):
        return f"{found.value:{sign}.4f} (one run)"
    return f"{found.value:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"

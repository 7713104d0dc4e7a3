"""What a backtest found: quality of every scorer with confidence intervals, over time, and against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas.arrays import Bools, Float32s, Float64s, Int64s
from rillet.trainer.quality import (
    Estimate,
    Influence,
    auc,
    auc_within,
    calibration,
    difference,
    estimate,
    normalised_entropy,
    time_blocks,
)

#: Intervals are made of this many stretches of event time: labels, traffic and the state of a model hang together
#: within minutes, so requests are no independent sample.
BLOCKS = 50
METRICS = ("auc", "auc_within", "normalised_entropy", "calibration")


@dataclass(frozen=True)
class BacktestReport:
    """Scores of M impressions by several scorers, and their labels."""

    expected: ExpectedExamples
    #: scorer to float32[M, T], impressions in the order of ``expected``
    logits: Mapping[str, Float32s]
    judged_from_ms: int
    #: what happened to the events in the joiner
    counters: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def judged(self) -> Bools:
        """Impressions that are judged, bool[M]."""
        judged: Bools = self.expected.feature_time_ms[self.expected.request] >= self.judged_from_ms
        return judged

    def influence(self, scorer: str, metric: str, task: int = 0) -> Influence:
        """A metric of one scorer over the judged impressions.

        :param metric: one of ``METRICS``.
        """
        logits: Float64s = self.logits[scorer][self.judged, task].astype(np.float64)
        labels = self.expected.positive[self.judged, task]
        if metric == "auc_within":
            return auc_within(logits, labels, self.expected.request[self.judged])
        return {"auc": auc, "normalised_entropy": normalised_entropy, "calibration": calibration}[metric](
            logits, labels
        )

    def estimate(self, scorer: str, metric: str, task: int = 0) -> Estimate:
        """The metric with its 95 % interval."""
        return estimate(self.influence(scorer, metric, task), self._blocks)

    def difference(self, scorer: str, other: str, metric: str, task: int = 0) -> Estimate:
        """``scorer`` minus ``other``, paired over the same impressions, with its 95 % interval."""
        return difference(self.influence(scorer, metric, task), self.influence(other, metric, task), self._blocks)

    def over_time(self, scorer: str, points: int = 40, task: int = 0) -> list[float]:
        """AUC of each of ``points`` equally filled stretches of event time, over all impressions."""
        blocks = time_blocks(self._times, points)
        logits, labels = self.logits[scorer][:, task].astype(np.float64), self.expected.positive[:, task]
        return [auc(logits[blocks == point], labels[blocks == point]).value for point in range(points)]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        spec = self.expected.spec
        return {
            "requests": len(self.expected.request_ids),
            "impressions": len(self.expected.request),
            "judged_impressions": int(self.judged.sum()),
            "joiner": dict(self.counters),
            "tasks": {
                task.name: {
                    scorer: {
                        metric: _plain(self.estimate(scorer, metric, index))
                        for metric in METRICS
                        if _is_defined(scorer, metric)
                    }
                    for scorer in self.logits
                }
                for index, task in enumerate(spec.tasks)
            },
        }

    def table(self) -> str:
        """The figures as text, one line per scorer and task."""
        lines = [f"{'task':12}{'scorer':20}" + "".join(f"{metric:>26}" for metric in METRICS)]
        for index, task in enumerate(self.expected.spec.tasks):
            for scorer in self.logits:
                cells = [
                    _show(self.estimate(scorer, metric, index)) if _is_defined(scorer, metric) else "-"
                    for metric in METRICS
                ]
                lines.append(f"{task.name:12}{scorer:20}" + "".join(f"{cell:>26}" for cell in cells))
        return "\n".join(lines)

    @cached_property
    def _times(self) -> Int64s:
        return self.expected.feature_time_ms[self.expected.request]

    @cached_property
    def _blocks(self) -> Int64s:
        return time_blocks(self._times[self.judged], BLOCKS)


def _is_defined(scorer: str, metric: str) -> bool:
    """Popularity ranks; its counts are no probabilities."""
    return metric.startswith("auc") or "popularity" not in scorer


def _plain(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _show(found: Estimate) -> str:
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"

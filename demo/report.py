"""Computes the demo's report from what was collected: joined events, audit, scores, delta log, metrics.

Pure functions over arrays; no broker, no clock. ``report.json`` is :meth:`Report.to_json`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.audit.report import AuditReport
from rillet.connectors.topic_reader import TopicRecord
from rillet.demo.metrics import histogram_quantile, windowed_auc
from rillet.demo.monitor import Reading
from rillet.schemas import DeltaBlock, RecordError, decode
from rillet.schemas.arrays import Float32s, Float64s, Int64s, range_indices
from rillet.trainer.quality import auc, calibration

AUC_POINTS = 20
SERVED = "served"
#: scores that a report can have, and what they are called
SCORES = {
    SERVED: "served",
    "frozen": "frozen after the batch stage",
    "logistic": "logistic regression",
    "decayed_popularity": "decayed popularity",
    "popularity": "popularity",
    "truth": "the true probabilities",
}


@dataclass(frozen=True, slots=True)
class DeltaSummary:
    """What the delta log carried from the first request on: blocks of rows, and how many bytes at what time.

    :param times_s: when each record was appended, seconds since the first request.
    :param earlier_bytes: what it carried before, which is the batch stage's.
    """

    blocks: int = 0
    rows: int = 0
    tombstones: int = 0
    bytes: int = 0
    times_s: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    earlier_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """How good one set of scores was; NaN where a class is missing."""

    auc: float
    calibration: float
    #: AUC of each point of the curves
    curve: list[float]


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores of the same impressions, judged by the same labels.

    :param scores: by name, ``served`` first: see :data:`SCORES`.
    :param edges: number of the last request of each point of the curves.
    """

    scores: dict[str, Judged]
    impressions: int
    edges: list[int]

    @property
    def served(self) -> Judged:
        """What was served."""
        return self.scores[SERVED]


@dataclass(frozen=True, slots=True)
class Report:
    """All numbers of one run.

    :param unlogged: requests that were answered and are not on the features topic.
    :param watched: the action of the task that quality is of.
    """

    dataset: str
    audit: AuditReport
    unlogged: int
    quality: Quality
    watched: str
    deltas: DeltaSummary
    readings: list[Reading]
    freshness: tuple[list[float], list[float]]
    latency_ms: dict[str, float]
    replica_rows: int
    replica_lag: int
    wall_s: float
    drive_s: float
    retries: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, duplicated or wrong; at the lateness of a demo nothing may be late."""
        return self.audit.ok and not self.unlogged

    def verdict(self) -> str:
        """The result of the audit in one sentence."""
        if self.unlogged:
            return f"Audit failed: {self.unlogged:,} answered requests are not on the features topic."
        if self.ok:
            return f"Audit passed: all {self.audit.expected:,} expected examples are there, once, and right."
        return f"Audit failed: {self.audit.lines()[0].removeprefix('audit: ')}."

    def to_json(self) -> dict[str, Any]:
        """The content of ``report.json``; numbers that do not exist are null."""
        audit = self.audit
        problems = ("expected", "found", "lost", "duplicated", "mislabelled", "unexpected", "wrong_rate", "wrong_spec")
        plain: dict[str, Any] = _plain(
            {
                "dataset": self.dataset,
                "requests": audit.requests,
                "impressions": audit.impressions,
                "actions": audit.actions,
                "examples": {"positive": audit.positive, "negative": audit.negative},
                "audit": {
                    **{name: getattr(audit, name) for name in (*problems, "undecodable", "wrong_columns")},
                    "ok": self.ok,
                    "unlogged_requests": self.unlogged,
                    "duplicate_features": audit.duplicate_features,
                    "orphan_actions": audit.orphan_actions,
                    "early_actions": audit.early_actions,
                    "late_dropped": audit.late_dropped,
                    "late_positive": audit.late_positive,
                    "unusable_events": audit.unusable_events,
                    "offenders": [str(offender) for offender in audit.offenders],
                },
                **{f"{name}_auc": judged.auc for name, judged in self.quality.scores.items()},
                "calibration": self.quality.served.calibration,
                "frozen_calibration": self.quality.scores["frozen"].calibration,
                "watched": self.watched,
                "judged_impressions": self.quality.impressions,
                "freshness_ms": {
                    "p50": self.freshness_ms(0.5),
                    "p99": self.freshness_ms(0.99),
                    "actions": int(self.freshness[1][-1]) if self.freshness[1] else 0,
                },
                "latency_ms": self.latency_ms,
                "deltas": {
                    "blocks": self.deltas.blocks,
                    "rows": self.deltas.rows,
                    "tombstones": self.deltas.tombstones,
                    "bytes": self.deltas.bytes,
                    "earlier_bytes": self.deltas.earlier_bytes,
                },
                "replica": {"rows": self.replica_rows, "lag": self.replica_lag},
                "wall_s": self.wall_s,
                "drive_s": self.drive_s,
                "retries": self.retries,
                "settings": self.settings,
                "curves": {
                    "requests": self.quality.edges,
                    **{f"{name}_auc": judged.curve for name, judged in self.quality.scores.items()},
                },
                "readings": [asdict(reading) for reading in self.readings],
            }
        )
        return plain

    def freshness_ms(self, q: float) -> float:
        """A quantile of the time from an action's ingestion to its being served, in ms."""
        return histogram_quantile(*self.freshness, q) * 1000


def in_event_order(joined: ExpectedExamples) -> Int64s:
    """Numbers of all requests, in order of event time."""
    return np.argsort(joined.feature_time_ms, kind="stable")


def impressions_of(joined: ExpectedExamples, requests: Int64s) -> Int64s:
    """Rows of all impressions of the requests, request after request."""
    counts = joined.start[requests + 1] - joined.start[requests]
    return range_indices(joined.start[requests], counts)


def judge(
    joined: ExpectedExamples, requests: Int64s, others: Mapping[str, Float32s], task: int, first_request: int
) -> Quality:
    """Judges the served scores of one task, and other scores of all impressions of ``requests``.

    Labels are the plain join's, unsampled. Impressions whose scores were not logged are left out of all.

    :param others: by name, float32[impressions, T] each, in the order of :func:`impressions_of`.
    :param first_request: how many requests came before, for the curves' axis.
    """
    rows = impressions_of(joined, requests)
    counts = joined.start[requests + 1] - joined.start[requests]
    served = joined.served_logits[rows, task]
    logged = ~np.isnan(served)
    labels = joined.positive[rows, task][logged]
    points = max(1, min(AUC_POINTS, len(requests) // 100))
    group = np.repeat(np.arange(len(requests)) * points // max(len(requests), 1), counts)[logged]

    def judged(scores: Float32s) -> Judged:
        return Judged(
            auc(scores, labels).value, calibration(scores, labels).value, windowed_auc(scores, labels, group, points)
        )

    return Quality(
        {SERVED: judged(served[logged])} | {name: judged(scores[logged, task]) for name, scores in others.items()},
        impressions=int(logged.sum()),
        edges=[first_request + len(requests) * (point + 1) // points for point in range(points)],
    )


def summarise_deltas(records: Iterable[TopicRecord], started_ms: int) -> DeltaSummary:
    """Counts the delta log. ``bytes`` are those of all its records, dense references included.

    :param started_ms: wall clock of the first request.
    """
    blocks = rows = tombstones = earlier = 0
    times: list[float] = []
    sizes: list[int] = []
    for record in records:
        value = record.value or b""
        if record.timestamp_ms < started_ms:
            earlier += len(value)
            continue
        times.append((record.timestamp_ms - started_ms) / 1000)
        sizes.append(len(value))
        try:
            decoded = decode(value)
        except RecordError:
            # Counted in bytes only; a replica reports it as an incident of its own.
            continue
        if isinstance(decoded, DeltaBlock):
            blocks += 1
            rows += len(decoded.fids)
            tombstones += len(decoded.tombstones)
    return DeltaSummary(blocks, rows, tombstones, sum(sizes), times, sizes, earlier)


def latency_summary(latency_s: list[float]) -> dict[str, float]:
    """Quantiles of the driver's request times, in ms."""
    if not latency_s:
        return {}
    values: Float64s = np.quantile(latency_s, (0.5, 0.99)) * 1000
    return {"p50": float(values[0]), "p99": float(values[1])}


def _plain(value: Any) -> Any:
    """The value for JSON: NaN becomes null, floats are rounded to six significant digits."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

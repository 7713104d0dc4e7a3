"""What the services' metrics say, as the facts of ``inspection/facts.py``; pure.

A metric that a service does not have, or that is not finite, is not known, which is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rillet.inspection.facts import JoinerFacts, Known, QualityFacts, ReplicaFacts, TrainerFacts
from rillet.inspection.scrape import Scrape

#: a log that has not answered for so long is away; a replica asks it several times per second
STALE_MS = 15_000

#: counters of the joiner that are of its Flink job, and there before those of its tasks
_OF_JOB = {"restarts", "lost_transactions"}


def joiner_facts(read: Scrape) -> JoinerFacts | None:
    """Of the joiner's metrics; None where there are none of its counters."""
    counts = {
        name.removeprefix("rillet_joiner_").removesuffix("_total"): round(value)
        for name, value in sorted(read.values.items())
        if name.startswith("rillet_joiner_") and name.endswith("_total") and math.isfinite(value)
    }
    if counts.keys() <= _OF_JOB:  # as of a job that is restarted
        return None
    recent = {name: round(value) for name, value in _by_label(read, "rillet_joiner_recent", "count").items()}
    actions = recent.get("actions", 0)
    positives = sum(recent.get(name, 0) for name in ("positives", "corrections", "late_positives"))
    return JoinerFacts(
        open_requests=whole(read, "rillet_joiner_open_requests"),
        next_close_ms=time_ms(read, "rillet_joiner_next_close_seconds"),
        watermark_ms=time_ms(read, "rillet_joiner_watermark_seconds"),
        examples=counts.get("examples"),
        join_rate=positives / actions if actions else None,
        waiting=whole(read, "rillet_joiner_waiting_actions"),
        oldest_waiting_ms=time_ms(read, "rillet_joiner_oldest_waiting_seconds"),
        counts=counts,
        unknown_actions=_counts(read, "rillet_joiner_unknown_actions_total", "action"),
        recent=recent,
        recent_unknown=_counts(read, "rillet_joiner_recent_unknown_actions", "action"),
        recent_valued=_counts(read, "rillet_joiner_recent_valued_actions", "task"),
        recent_valueless=_counts(read, "rillet_joiner_recent_valueless_actions", "task"),
        recent_lacking=_counts(read, "rillet_joiner_recent_lacking_pages", "feature"),
        held_s=read.values.get("rillet_joiner_held_seconds", 0.0),
        silent_s=_by_label(read, "rillet_joiner_silent_topic_seconds", "topic"),
        failed_checkpoints=whole(read, "rillet_joiner_failed_checkpoints_in_a_row") or 0,
    )


def trainer_facts(read: Scrape) -> TrainerFacts | None:
    """Of the trainer's metrics; None where there are none of its counters."""
    if "rillet_train_rows_total" not in read.values:
        return None
    tasks = _by_label(read, "rillet_train_quality_left_out_rows", "task")
    return TrainerFacts(
        rows=whole(read, "rillet_train_rows_total"),
        rows_per_second=number(read, "rillet_train_rows_per_second"),
        lag_records=whole(read, "rillet_train_lag_records"),
        loss=number(read, "rillet_train_loss"),
        newest_event_ms=time_ms(read, "rillet_train_newest_event_timestamp_seconds"),
        refused_rows=whole(read, "rillet_train_refused_rows_total") or 0,
        publish_failures=whole(read, "rillet_train_publish_failures_in_a_row") or 0,
        quality={task: _quality(read, task) for task in tasks},
    )


def replica_facts(read: Scrape, now_ms: int) -> ReplicaFacts | None:
    """Of the server's metrics; None where it has none of a replica. How old the lag is, they do not say."""
    if "rillet_replica_ready" not in read.values:
        return None
    lag, reached_ms = (
        whole(read, "rillet_replica_lag_records"),
        time_ms(read, "rillet_replica_reached_timestamp_seconds"),
    )
    freshness = read.histograms.get("rillet_freshness_seconds", ([], []))
    ready = read.get("rillet_replica_ready") == 1
    return ReplicaFacts(
        ready=ready,
        rows=whole(read, "rillet_replica_rows"),
        lag_records=lag,
        lag_s=0.0 if lag == 0 else None,
        freshness_p50_s=quantile(*freshness, 0.5),
        freshness_p99_s=quantile(*freshness, 0.99),
        newest_event_ms=time_ms(read, "rillet_replica_newest_event_timestamp_seconds"),
        reached_ms=reached_ms,
        stale=ready and reached_ms is not None and now_ms - reached_ms > STALE_MS,
        degraded=read.get("rillet_replica_degraded") == 1,
        requests=whole(read, "rillet_serving_requests_total"),
        request_p99_s=quantile(*read.histograms.get("rillet_serving_request_seconds", ([], [])), 0.99),
    )


def quantile(bounds: Sequence[float], cumulative: Sequence[float], q: float) -> float | None:
    """The q-quantile of a histogram as Prometheus estimates it; None without values, or above the last finite bound.

    >>> quantile([1.0, 2.0, float("inf")], [2.0, 4.0, 4.0], 0.75), quantile([], [], 0.5)
    (1.5, None)
    """
    total = cumulative[-1] if len(cumulative) else 0.0
    if not total:
        return None
    at = int(np.searchsorted(cumulative, q * total))
    if not math.isfinite(bounds[at]):
        return None
    low, below = (bounds[at - 1], cumulative[at - 1]) if at else (0.0, 0.0)
    return float(low + (bounds[at] - low) * (q * total - below) / (cumulative[at] - below))


def labels_of(read: Scrape, name: str) -> dict[str, str]:
    """Labels of the first sample of this name; none where there is no such sample."""
    return next((sample.labels for family in read.families for sample in family.samples if sample.name == name), {})


def _quality(read: Scrape, task: str) -> QualityFacts:
    def of(name: str) -> float | None:
        return _by_label(read, f"rillet_train_quality_{name}", "task").get(task)

    rows, positives = _int(of("rows")), _int(of("positives"))
    first_ms, known_ms = _ms(of("first_known_timestamp_seconds")), _ms(of("end_timestamp_seconds"))
    auc = of("auc")
    state: Known
    if known_ms is not None:
        state = "too few rows" if auc is None else "known"
    elif first_ms is not None:
        state = "warming up"
    else:
        state = "no scores" if of("unscored_rows") else "unknown"
    return QualityFacts(
        state=state,
        auc=auc,
        normalised_entropy=of("normalised_entropy"),
        calibration=of("calibration"),
        rows=rows if known_ms is not None else None,
        positives=positives if known_ms is not None else None,
        known_ms=known_ms,
        first_known_ms=first_ms if known_ms is None else None,
    )


def _counts(read: Scrape, name: str, label: str) -> dict[str, int]:
    return {of: round(value) for of, value in _by_label(read, name, label).items() if value}


def _by_label(read: Scrape, name: str, label: str) -> dict[str, float]:
    """Samples of one name by the value of a label; those that are not finite left out."""
    return {
        sample.labels[label]: sample.value
        for family in read.families
        for sample in family.samples
        if sample.name == name and label in sample.labels and math.isfinite(sample.value)
    }


def number(read: Scrape, name: str) -> float | None:
    """A counter or gauge; None where it is not known."""
    value = read.values.get(name)
    return None if value is None or not math.isfinite(value) else value


def whole(read: Scrape, name: str) -> int | None:
    """A counter or gauge as a whole number; None where it is not known."""
    return _int(number(read, name))


def time_ms(read: Scrape, name: str) -> int | None:
    """A gauge of epoch seconds as milliseconds; None where it is not known."""
    return _ms(number(read, name))


def _int(value: float | None) -> int | None:
    return None if value is None else round(value)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None or not math.isfinite(seconds * 1000) else round(seconds * 1000)

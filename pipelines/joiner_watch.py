"""What ``rillet join`` tells of its job: the joiner's counters on ``/metrics``, and warnings where they are absurd."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import FlinkCounters, FlinkJob, JobFigures
from rillet.joiner import Alarms, Counters, RecentCounts
from rillet.joiner.metrics import BY_ACTION, BY_ERROR, BY_TIER, BY_TOPIC, LACKING, VALUED, VALUELESS
from rillet.pipelines.hold_alarms import HoldAlarms
from rillet.pipelines.job_alarms import JobAlarms

log = logging.getLogger(__name__)

_COUNTERS = (*Counters().as_dict(), "dead_letters", "examples")
_BY_NAME = {
    BY_ACTION: ("rillet_joiner_unknown_actions", "action", "Actions that no task and no history asks for, by name."),
    VALUED: (
        "rillet_joiner_valued_actions",
        "task",
        "Actions that could have made a positive of a task whose `at_least` asks for values, with a value.",
    ),
    VALUELESS: (
        "rillet_joiner_valueless_actions",
        "task",
        "Likewise those without a value: none of them can make a positive.",
    ),
    LACKING: (
        "rillet_joiner_lacking_pages",
        "feature",
        "Pages in another format without a slot or dense feature that is new to the spec, taken as missing while `also_accepts` "
        "names a spec without it.",
    ),
    BY_ERROR: ("rillet_joiner_refused", "error", "Records that became dead letters, by the kind of error."),
    BY_TIER: ("rillet_joiner_reads", "tier", "Reads of requests, by tier: memory, disk, engine (Flink's state)."),
}
#: of them, those of which the growth over the newest records is shown
_RECENT = {
    BY_ACTION: "rillet_joiner_recent_unknown_actions",
    VALUED: "rillet_joiner_recent_valued_actions",
    VALUELESS: "rillet_joiner_recent_valueless_actions",
    LACKING: "rillet_joiner_recent_lacking_pages",
}
#: what the counters count, by name
_HELP = {
    "features": "Feature events used.",
    "actions": "Action events used.",
    "positives": "Rows of kind `POSITIVE`.",
    "negatives": "Rows of kind `NEGATIVE`.",
    "provisional_negatives": "Rows of kind `PROVISIONAL`, of `immediate` tasks.",
    "corrections": "Rows of kind `CORRECTION`, of `immediate` tasks.",
    "late_positives": "Rows of kind `LATE_POSITIVE`.",
    "duplicate_features": "Feature events of a request that has one already.",
    "duplicate_actions": "Actions on a pair that is positive already.",
    "late_actions": "Actions that came after their windows were closed, and make no row.",
    "early_actions": "Actions that lie further before their impressions than `early_ms`.",
    "outside_window": "Actions that lie after their label windows.",
    "incomplete_actions": "Actions with which `at_least` of their task was not reached, or not yet.",
    "ungathered_actions": "Actions left out, since 256 on their pair have not reached `at_least` of the task.",
    "unknown_impressions": "Actions on impressions that their requests do not have, or that were not exposed.",
    "unexposed_impressions": "Impressions without rows, since their feature event says that they were not exposed.",
    "earlier_requests": "Actions of requests that were joined under an earlier feature spec, which does not ask for them.",
    "history_actions": "Actions that only a history asks for.",
    "unmatched_actions": "Actions whose feature event had not come when they did.",
    "matched_later": "Of them, those whose feature event came while they waited.",
    "orphan_actions": "Actions whose feature event did not come within `action_wait_ms`.",
    "discarded_at_end": "Negatives that a drain left out.",
    "dead_letters": "Records of features and actions that became dead letters.",
    "examples": "Rows written to the examples topic.",
}
GAUGES = {
    "watermark_ms": ("rillet_joiner_watermark_seconds", 1e-3, "Event time up to which windows are closed, since 1970."),
    "open_requests": (
        "rillet_joiner_open_requests",
        1.0,
        "Requests that are remembered: of open windows, or kept for late actions.",
    ),
    "waiting_actions": (
        "rillet_joiner_waiting_actions",
        1.0,
        "Actions that wait for the feature event of their request.",
    ),
    "waiting_bytes": (
        "rillet_joiner_waiting_bytes",
        1.0,
        "Memory of the actions that wait, by estimate; bounded by `[joiner] waiting_bytes`.",
    ),
    "oldest_waiting_ms": (
        "rillet_joiner_oldest_waiting_seconds",
        1e-3,
        "Event time of the action that waits longest; absent where none does.",
    ),
    "next_close_ms": (
        "rillet_joiner_next_close_seconds",
        1e-3,
        "Event time at which the next label window closes; absent where none is open.",
    ),
}
_HELD = (
    "By how much event time is behind the watermark, because nothing comes to one of the topics; after a start `hold_ms`, until "
    "both are known to move."
)
#: gauges that are sums over subtasks; of times the earliest counts
_SUMS = ("open_requests", "waiting_actions", "waiting_bytes")

#: a broker that restarts is away for less
_PATIENCE_S = 5.0


def _counts_up(name: str) -> bool:
    """Whether a metric of the job only grows until a restart; Flink has gauges among its counters here."""
    return name in _COUNTERS or name.partition(".")[0] in _BY_NAME


class TopicsWatch:
    """Whether the joiner could read: its job runs on, and waits, while no broker answers."""

    def __init__(self, answers: Callable[[], bool], now_s: Callable[[], float] = time.monotonic) -> None:
        """:param answers: whether a broker tells of the topics now."""
        self._answers, self._now_s = answers, now_s
        self._away_since_s: float | None = None
        self._told = False

    def refresh(self) -> None:
        """Asks the broker; that it is away, and that it is back, goes to the log."""
        asked_s = self._now_s()
        if self._answers():
            self._away_since_s = None
        elif self._away_since_s is None:
            self._away_since_s = asked_s
        if self._told == self.reachable:
            self._told = not self.reachable
            if self._told:
                log.warning("not ready: no broker has told of the topics for %.0f s", _PATIENCE_S)
            else:
                log.info("the broker answers again")

    @property
    def reachable(self) -> bool:
        """Whether the broker answers, or is away for no longer than a restart takes. From any thread."""
        since_s = self._away_since_s
        return since_s is None or self._now_s() - since_s < _PATIENCE_S


class JoinerWatch(Collector):
    """The counters of a job as they were when last asked for; a collector of Prometheus."""

    def __init__(
        self,
        counters: FlinkCounters,
        alarms: Alarms,
        job: FlinkJob | None = None,
        job_alarms: JobAlarms | None = None,
        *,
        topics: Iterable[str] = (),
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """
        :param job: tells how the job is doing, for ``job_alarms``.
        :param topics: those that it reads.
        """
        #: by their names among Flink's metrics, which have no dots
        self._topics = {topic.replace(".", "_"): topic for topic in topics}
        self._now_s, self._wall_s = now_s, wall_s
        self._job, self._job_alarms = job, job_alarms
        self._figures: JobFigures | None = None
        self._recent = RecentCounts()
        self._counters = counters
        self._alarms = alarms
        #: per subtask as Flink told them last, and how much had been counted before its restarts
        self._told: list[dict[str, int]] = []
        self._before: list[dict[str, int]] = []
        #: per subtask, restarts or not
        self._found: list[dict[str, int]] = []
        self._silent = False
        self._hold_alarms = HoldAlarms(now_s)

    def refresh_job(self) -> None:
        """Asks Flink how the job does that has not begun to read: one that fails at its start would be restarted for long."""
        # While it is being set up, Flink does not know it yet.
        with suppress(ConnectorError):
            self._ask_job()

    def refresh(self) -> None:
        """Asks Flink; what is absurd goes to the log. While Flink does not answer, the last counts stay."""
        try:
            # First, since a job that is restarted has no counters.
            self._ask_job()
            self._found = self._going_on(self._counters.read())
            self._silent = False
        except ConnectorError as error:
            if not self._silent:
                log.warning("the joiner's counters are not known: %s", error)
            self._silent = True
            return
        if not any(self._found):
            return
        counts = {name: self._sum(name) for name in _COUNTERS}
        records = sum(counts[name] for name in ("features", "duplicate_features", "actions", "dead_letters"))
        named = {f"{kind}.{name}": count for kind in _RECENT for name, count in self._by_name(kind).items()}
        self._recent.add(self._now_s(), counts | named, records)
        lines = self._alarms.judge(
            counts | {"waiting_actions": self._sum("waiting_actions")},
            self._by_name(BY_ACTION),
            self._by_name(BY_ERROR),
            self._watermark_ms(),
            valued=self._by_name(VALUED),
            valueless=self._by_name(VALUELESS),
        )
        for line in lines:
            log.warning("%s", line)
        self._hold_alarms.tell(self._held_ms(), self._silent_topics())

    def _ask_job(self) -> None:
        self._figures = self._job.read() if self._job is not None else None
        if self._figures is not None and self._job_alarms is not None:
            for line in self._job_alarms.judge(self._figures):
                log.warning("%s", line)

    def _going_on(self, told: list[dict[str, int]]) -> list[dict[str, int]]:
        """Counts that do not fall: the tasks' own begin at 0 at each restart, some at once and some with their first record."""
        if len(told) != len(self._told):
            self._told, self._before = [{} for _ in told], [{} for _ in told]
        for now, last, before in zip(told, self._told, self._before, strict=True):
            for name, count in last.items():
                if _counts_up(name) and now.get(name, 0) < count:
                    before[name] = before.get(name, 0) + count
        self._told = told
        return [
            now | {name: count + now.get(name, 0) for name, count in before.items()}
            for now, before in zip(told, self._before, strict=True)
        ]

    def _watermark_ms(self) -> int | None:
        return min((subtask["watermark_ms"] for subtask in self._found if subtask.get("watermark_ms")), default=None)

    def _held_ms(self) -> int:
        return max((subtask.get("held_ms", 0) for subtask in self._found), default=0)

    def _silent_topics(self) -> dict[str, int]:
        """How long each silent topic has been so; each subtask asks for itself."""
        found: dict[str, int] = {}
        for subtask in self._found:
            for key, silent_ms in subtask.items():
                group, _, name = key.partition(".")
                if group == BY_TOPIC and silent_ms:
                    name = name.removesuffix(".count")
                    name = self._topics.get(name, name)
                    found[name] = max(found.get(name, 0), silent_ms)
        return found

    def collect(self) -> Iterable[Metric]:
        """For Prometheus."""
        families = list(self._families()) if any(self._found) else []
        return families if self._figures is None else [*families, *_of_job(self._figures)]

    def _families(self) -> Iterator[Metric]:
        for name in _COUNTERS:
            if name != "unknown_actions":  # by name, below
                yield CounterMetricFamily(f"rillet_joiner_{name}", _HELP[name], value=self._sum(name))
        for kind, (metric, label, text) in _BY_NAME.items():
            family = CounterMetricFamily(metric, text, labels=[label])
            for name, count in self._by_name(kind).items():
                family.add_metric([name], count)
            yield family
        for name, (metric, factor, text) in GAUGES.items():
            values = [subtask[name] for subtask in self._found if subtask.get(name)]
            if name in _SUMS:
                yield GaugeMetricFamily(metric, text, value=sum(values))
            elif values:
                yield GaugeMetricFamily(metric, text, value=min(values) * factor)
        if (watermark_ms := self._watermark_ms()) is not None:
            text = "By how much the watermark is behind the clock: on live topics lateness_ms, and what there is to catch up."
            lag_s = max(0.0, self._wall_s() - watermark_ms / 1_000)
            yield GaugeMetricFamily("rillet_joiner_watermark_lag_seconds", text, value=lag_s)
        yield GaugeMetricFamily("rillet_joiner_held_seconds", _HELD, value=self._held_ms() / 1_000)
        text = "How long nothing has come to a topic of which all is read; absent while records come."
        silence = GaugeMetricFamily("rillet_joiner_silent_topic_seconds", text, labels=["topic"])
        for topic, silent_ms in self._silent_topics().items():
            silence.add_metric([topic], silent_ms / 1_000)
        yield silence
        text = "Growth of counters over the newest records: the last two minutes with traffic, 100 records at least."
        recent = GaugeMetricFamily("rillet_joiner_recent", text, labels=["count"])
        named = {}
        for kind, metric in _RECENT.items():
            label = _BY_NAME[kind][1]
            named[kind] = GaugeMetricFamily(metric, f"By {label}. {text}", labels=[label])
        for name, count in self._recent.grown().items():
            kind, _, label = name.partition(".")
            if kind in named:
                named[kind].add_metric([label], count)
            else:
                recent.add_metric([name], count)
        yield from (recent, *named.values())

    def _sum(self, name: str) -> int:
        return sum(subtask.get(name, 0) for subtask in self._found)

    def _by_name(self, kind: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for subtask in self._found:
            for key, count in subtask.items():
                group, _, name = key.partition(".")
                if group == kind:
                    name = name.removesuffix(".count")
                    found[name] = found.get(name, 0) + count
        return found


def _of_job(figures: JobFigures) -> Iterator[Metric]:
    """What Flink tells of the job as a whole."""
    text = "Restarts of the job after failures, since its start."
    yield CounterMetricFamily("rillet_joiner_restarts", text, value=figures.restarts)
    family = CounterMetricFamily("rillet_joiner_checkpoints", "Checkpoints, by how they ended.", labels=["result"])
    family.add_metric(["complete"], figures.completed_checkpoints)
    family.add_metric(["failed"], figures.failed_checkpoints)
    yield family
    text = "Checkpoints that have failed since the last complete one; 0 is well."
    yield GaugeMetricFamily("rillet_joiner_failed_checkpoints_in_a_row", text, value=figures.failed_in_a_row)
    text = "Transactions that the broker ended before they were committed: rows that are lost."
    if figures.lost_transactions is not None:
        yield CounterMetricFamily("rillet_joiner_lost_transactions", text, value=figures.lost_transactions)
    text = "State of the job, as the last complete checkpoint has it."
    yield GaugeMetricFamily("rillet_joiner_state_bytes", text, value=figures.state_bytes)
    text = "What was written for the last complete checkpoint: what had changed, with RocksDB."
    yield GaugeMetricFamily("rillet_joiner_checkpoint_bytes", text, value=figures.checkpoint_bytes)
    text = "How long the last complete checkpoint took."
    yield GaugeMetricFamily("rillet_joiner_checkpoint_seconds", text, value=figures.checkpoint_ms / 1_000)

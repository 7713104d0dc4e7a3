"""What ``rillet join`` tells of its job: the joiner's counters on ``/metrics``, and warnings where they are absurd."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import FlinkCounters
from rillet.joiner import Alarms, Counters, RecentCounts
from rillet.joiner.metrics import BY_ACTION, BY_ERROR, BY_TOPIC

log = logging.getLogger(__name__)

_COUNTERS = (*Counters().as_dict(), "dead_letters", "examples")
_BY_NAME = {
    BY_ACTION: ("rillet_joiner_unknown_actions", "action", "Actions that no task and no history asks for, by name."),
    BY_ERROR: ("rillet_joiner_refused", "error", "Records that became dead letters, by the kind of error."),
}
_HELP = {
    "dead_letters": "Records of features and actions that became dead letters.",
    "examples": "Rows written to the examples topic.",
}
_GAUGES = {
    "watermark_ms": ("rillet_joiner_watermark_seconds", 1e-3, "Event time up to which windows are closed."),
    "open_requests": ("rillet_joiner_open_requests", 1.0, "Requests that are remembered."),
    "waiting_actions": (
        "rillet_joiner_waiting_actions",
        1.0,
        "Actions that wait for the feature event of their request.",
    ),
    "waiting_bytes": ("rillet_joiner_waiting_bytes", 1.0, "Memory of the actions that wait, by estimate."),
    "oldest_waiting_ms": ("rillet_joiner_oldest_waiting_seconds", 1e-3, "Event time of the action that waits longest."),
    "next_close_ms": ("rillet_joiner_next_close_seconds", 1e-3, "Event time at which the next label window closes."),
}
_HELD = "By how much event time is behind the watermark, because nothing comes to one of the topics."
#: silence of one topic is told from so much on; a pause of users is shorter
_TOLD_MS = 60_000
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

    def __init__(self, counters: FlinkCounters, alarms: Alarms, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._recent = RecentCounts()
        self._counters = counters
        self._alarms = alarms
        #: per subtask as Flink told them last, and how much had been counted before its restarts
        self._told: list[dict[str, int]] = []
        self._before: list[dict[str, int]] = []
        self._restarts = 0
        #: per subtask, restarts or not
        self._found: list[dict[str, int]] = []
        self._silent = False
        #: the topic that was told to hold windows back
        self._holding: str | None = None

    def refresh(self) -> None:
        """Asks Flink; what is absurd goes to the log. While Flink does not answer, the last counts stay."""
        try:
            self._found = self._going_on(self._counters.read())
            restarts = self._counters.restarts()
            self._silent = False
        except ConnectorError as error:
            if not self._silent:
                log.warning("the joiner's counters are not known: %s", error)
            self._silent = True
            return
        if restarts > self._restarts:
            log.warning(
                "Flink has restarted the job's tasks (restart %d): they go on from the newest checkpoint and"
                " count again what they read since then; Flink's log says why",
                restarts,
            )
            self._restarts = restarts
        if not any(self._found):
            return
        counts = {name: self._sum(name) for name in _COUNTERS}
        records = sum(counts[name] for name in ("features", "duplicate_features", "actions", "dead_letters"))
        named = {f"{BY_ACTION}.{name}": count for name, count in self._by_name(BY_ACTION).items()}
        self._recent.add(self._now_s(), counts | named, records)
        watermark_ms = min(
            (subtask["watermark_ms"] for subtask in self._found if subtask.get("watermark_ms")), default=None
        )
        for line in self._alarms.judge(counts, self._by_name(BY_ACTION), self._by_name(BY_ERROR), watermark_ms):
            log.warning("%s", line)
        self._tell_if_held()

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

    def _tell_if_held(self) -> None:
        held_ms, silent = self._held_ms(), self._silent_topics()
        holding = next(iter(silent)) if len(silent) == 1 and held_ms >= _TOLD_MS else None
        if holding is not None and holding != self._holding:
            log.warning(
                "nothing has come to topic %s for %s s while the other one goes on: label windows wait for it, up to"
                " [flink] hold_ms; does what writes to it run?",
                holding,
                silent[holding] // 1_000,
            )
            self._holding = holding
        elif self._holding is not None and not held_ms:
            log.info("topic %s goes on, label windows close by the watermark again", self._holding)
            self._holding = None

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
                    found[name] = max(found.get(name, 0), silent_ms)
        return found

    def collect(self) -> Iterable[Metric]:
        """For Prometheus."""
        return list(self._families()) if any(self._found) else []

    def _families(self) -> Iterator[Metric]:
        for name in _COUNTERS:
            if name != "unknown_actions":  # by name, below
                text = _HELP.get(name, f"`{name}` of docs/join.md.")
                yield CounterMetricFamily(f"rillet_joiner_{name}", text, value=self._sum(name))
        for kind, (metric, label, text) in _BY_NAME.items():
            family = CounterMetricFamily(metric, text, labels=[label])
            for name, count in self._by_name(kind).items():
                family.add_metric([name], count)
            yield family
        for name, (metric, factor, text) in _GAUGES.items():
            values = [subtask[name] for subtask in self._found if subtask.get(name)]
            if name in _SUMS:
                yield GaugeMetricFamily(metric, text, value=sum(values))
            elif values:
                yield GaugeMetricFamily(metric, text, value=min(values) * factor)
        yield GaugeMetricFamily("rillet_joiner_held_seconds", _HELD, value=self._held_ms() / 1_000)
        text = "How long nothing has come to a topic of which all is read; absent while records come."
        silence = GaugeMetricFamily("rillet_joiner_silent_topic_seconds", text, labels=["topic"])
        for topic, silent_ms in self._silent_topics().items():
            silence.add_metric([topic], silent_ms / 1_000)
        yield silence
        text = "Growth of counters over the newest records: the last two minutes with traffic, 100 records at least."
        recent = GaugeMetricFamily("rillet_joiner_recent", text, labels=["count"])
        unknown = GaugeMetricFamily("rillet_joiner_recent_unknown_actions", f"By name. {text}", labels=["action"])
        for name, count in self._recent.grown().items():
            kind, _, action = name.partition(".")
            if kind == BY_ACTION:
                unknown.add_metric([action], count)
            else:
                recent.add_metric([name], count)
        yield from (recent, unknown)

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

"""The joiner's counts as metrics of its engine: what Flink's reporters show, and ``rillet join`` on its ``/metrics``.

All are counters, which may go up and down in Flink: a gauge would be read from Java's threads, which Python in one
process with them does not bear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rillet.joiner.counters import metric_label
from rillet.joiner.header import END_OF_TIME_MS
from rillet.joiner.spec_joiners import SpecJoiners
from rillet.schemas import RecordError

GROUP = "rillet_joiner"
#: groups of counters with a name or kind in their own names
BY_ACTION, BY_ERROR, BY_TOPIC, BY_TIER = "unknown_action", "refused", "silent_topic_ms", "reads"
#: of tasks that ask for values: actions that have one, and actions that have none
VALUED, VALUELESS = "valued", "valueless"
#: pages without a slot or dense feature that only the new one of two feature specs has
LACKING = "lacking"


class RefusalMetrics:
    """Dead letters, together and by the kind of their error; each counts at once."""

    def __init__(self, group: Any) -> None:
        """:param group: Flink's metric group of the task."""
        self._group = group.add_group(GROUP)
        self._total = self._group.counter("dead_letters")
        self._kinds: dict[str, Any] = {}

    def add(self, error: RecordError) -> None:
        """A record has become a dead letter."""
        kind = type(error).__name__
        if kind not in self._kinds:
            self._kinds[kind] = self._group.add_group(BY_ERROR, kind).counter("count")
        self._kinds[kind].inc()
        self._total.inc()


class LackMetrics:
    """Pages without what only the new one of two feature specs has, by its name; each counts at once."""

    def __init__(self, group: Any) -> None:
        """:param group: Flink's metric group of the task."""
        self._group = group.add_group(GROUP)
        self._counters: dict[str, Any] = {}

    def add(self, names: Iterable[str]) -> None:
        """A page lacks these."""
        for name in map(metric_label, names):
            if name not in self._counters:
                self._counters[name] = self._group.add_group(LACKING, name).counter("count")
            self._counters[name].inc()


class JoinMetrics:
    """What one subtask of the joiner reports; call :meth:`report` now and then."""

    def __init__(self, group: Any, joiner: SpecJoiners) -> None:
        """:param group: Flink's metric group of the task: makes groups (``add_group``) and counters (``counter``)."""
        self._group = group.add_group(GROUP)
        self._joiner = joiner
        #: dead letters
        self.refusals = RefusalMetrics(group)
        self._counters: dict[tuple[str, ...], Any] = {}
        self._reported: dict[tuple[str, ...], int] = {}
        self._silent_ms = 0
        #: how long each topic has been silent that was at some time
        self._silent_topics: dict[str, int] = {}
        self._held_ms = 0
        #: rows that went out
        self.examples = 0
        self.report(0)

    def silent_until(self, time_ms: int) -> None:
        """Time has gone on without a watermark."""
        self._silent_ms = max(self._silent_ms, time_ms)

    def hold(self, silent: Mapping[str, int], held_ms: int) -> None:
        """Which topics are silent, and for how long; by how much time is behind the watermark for it."""
        self._silent_topics = {**dict.fromkeys(self._silent_topics, 0), **silent}
        self._held_ms = held_ms

    def report(self, watermark_ms: int) -> None:
        """Brings Flink's counters up to date."""
        joiner = self._joiner
        now: dict[tuple[str, ...], int] = {(name,): count for name, count in joiner.counters.as_dict().items()}
        now |= {(BY_ACTION, name, "count"): count for name, count in joiner.unknown_actions.as_dict().items()}
        for group, counts in ((VALUED, joiner.values.valued), (VALUELESS, joiner.values.valueless)):
            now |= {(group, task, "count"): count for task, count in counts.as_dict().items()}
        time_ms = max(self._silent_ms, watermark_ms)
        now |= {(BY_TOPIC, topic, "count"): silent_ms for topic, silent_ms in self._silent_topics.items()}
        now["held_ms",] = self._held_ms
        now |= {(BY_TIER, tier, "count"): count for tier, count in joiner.reads.items()}
        now["examples",] = self.examples
        now["open_requests",] = joiner.open_requests
        now["waiting_actions",] = joiner.waiting_actions
        now["waiting_bytes",] = joiner.waiting_bytes
        now["oldest_waiting_ms",] = joiner.oldest_waiting_ms() or 0
        now["next_close_ms",] = joiner.next_close_ms(time_ms) or 0
        if time_ms < END_OF_TIME_MS:  # which a drain brings
            now["watermark_ms",] = max(0, time_ms)
        for name, count in now.items():
            if name not in self._counters:
                group = self._group if len(name) == 1 else self._group.add_group(name[0], name[1])
                self._counters[name] = group.counter(name[-1])
            if more := count - self._reported.get(name, 0):
                self._counters[name].inc(more)
                self._reported[name] = count

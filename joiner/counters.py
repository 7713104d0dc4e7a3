"""What the joiner counts; nothing is dropped without a count."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_LENGTH = 60


@dataclass(slots=True)
class Counters:
    """What happened to the records, as ``docs/join.md`` counts it."""

    features: int = 0
    actions: int = 0
    positives: int = 0
    negatives: int = 0
    provisional_negatives: int = 0
    corrections: int = 0
    late_positives: int = 0
    duplicate_features: int = 0
    duplicate_actions: int = 0
    late_actions: int = 0
    early_actions: int = 0
    outside_window: int = 0
    #: actions with which the rule of a task is not true, or not yet
    incomplete_actions: int = 0
    #: actions that a rule had no room for
    ungathered_actions: int = 0
    unknown_impressions: int = 0
    #: that were scored and not shown; duplicates of their events count, too
    unexposed_impressions: int = 0
    unknown_actions: int = 0
    #: actions that only a history asks for
    history_actions: int = 0
    #: actions of requests that were joined under an earlier feature spec, which does not ask for them
    earlier_requests: int = 0
    #: actions whose feature event had not come when they did
    unmatched_actions: int = 0
    #: of them, those whose feature event came while they waited
    matched_later: int = 0
    orphan_actions: int = 0
    discarded_at_end: int = 0

    def as_dict(self) -> dict[str, int]:
        """Name to count."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def add(self, name: str) -> None:
        """One more of what a count is called."""
        setattr(self, name, getattr(self, name) + 1)


def metric_label(name: str) -> str:
    """A name as the label of a metric: its beginning, with ``_`` for what Flink's reporters do not take."""
    return _NOT_IN_NAMES.sub("_", name[:_LENGTH]) or "_"


class NameCounts:
    """Counts by name, of names that strangers give: as many as are worth telling apart, the others under one.

    >>> counts = NameCounts(2)
    >>> for name in ("CLICK", "CLICK", "page view!", "hover"): counts.add(name)
    >>> counts.as_dict()
    {'CLICK': 2, 'page_view_': 1, 'other': 1}
    """

    OTHER = "other"

    def __init__(self, names: int = 20) -> None:
        """:param names: that are told apart."""
        self._names = names
        self._counts: dict[str, int] = {}

    def add(self, name: str) -> None:
        """One more of a name, see :func:`metric_label`."""
        name = metric_label(name)
        if name not in self._counts and len(self._counts) >= self._names:
            name = self.OTHER
        self._counts[name] = self._counts.get(name, 0) + 1

    def as_dict(self) -> dict[str, int]:
        """Name to count."""
        return dict(self._counts)


class ValueCounts:
    """Of the tasks that ask for values of actions: how many actions had one, and how many had none, by task.

    Each action is counted that could have made a pair positive.
    """

    #: tasks of a spec, and of those before it
    _TASKS = 100

    def __init__(self) -> None:
        self.valued, self.valueless = NameCounts(self._TASKS), NameCounts(self._TASKS)

    def add(self, task: str, value: float | None) -> None:
        """One more action on a task."""
        (self.valueless if value is None else self.valued).add(task)


class RecentCounts:
    """How much counts have grown over the newest records: those of the last minutes with traffic, and some at least.

    A share of everything since the start hides what has just gone wrong, and shows what was mended long ago.

    >>> recent = RecentCounts(window_s=60, least=10)
    >>> for second in range(0, 600, 10): recent.add(second, {"actions": 5 * second}, 5 * second)
    >>> recent.grown()
    {'actions': 300}
    """

    def __init__(self, window_s: float = 120.0, least: int = 100) -> None:
        """:param least: records that are recent however long ago they came."""
        self._window_s, self._least = window_s, least
        #: when it was, records until then, counts; the first is what growth is measured from
        self._kept: deque[tuple[float, int, dict[str, int]]] = deque()

    def add(self, now_s: float, counts: Mapping[str, int], records: int) -> None:
        """Counts as they are now; they only grow.

        :param records: that were read so far. While none come, what becomes of the last ones is still recent.
        """
        kept = self._kept
        if not kept:
            kept.append((now_s, 0, {}))
        if len(kept) > 1 and records == kept[-1][1]:
            kept[-1] = (kept[-1][0], records, dict(counts))
            return
        kept.append((now_s, records, dict(counts)))
        while now_s - kept[1][0] >= self._window_s and records - kept[1][1] >= self._least:
            kept.popleft()

    def grown(self) -> dict[str, int]:
        """By how much each count has grown; empty before there are any."""
        if not self._kept:
            return {}
        before, now = self._kept[0][2], self._kept[-1][2]
        return {name: count - before.get(name, 0) for name, count in now.items()}

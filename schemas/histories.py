"""What a history slot holds, as it is kept: by key, the newest distinct values. Time is an argument.

Applications use it through ``rillet.serving.client.Histories``, recordings through ``rillet.recordings.histories``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from rillet.schemas.slots import Slot


class RecentValues:
    """The newest ``max_values`` distinct values of each key, newest first.

    Values are placed by their times, in whatever order they come; of equal times the last one added is the newest. One
    that is added again moves to its newest time. What was put in at a time is visible later than that, never at it.

    An answer is exact where nothing has been added with a time at or after the one asked for. Otherwise it leaves out what
    is too new, and may have fewer values than there were: older ones had to make room for those. But the ``max_values``
    that were added last always have room, whatever their times: actions of a clock that is ahead, which no request can see
    for long, crowd out nothing that comes after them.

    >>> films = RecentValues(max_values=2)
    >>> for time_ms, film in ((1, 17), (2, 23), (3, 17), (3, 42)):
    ...     films.add(7, time_ms, [film])
    >>> films.at(7, 4)
    [42, 17]
    >>> films.at(7, 3)
    [23]
    """

    def __init__(self, max_values: int, max_age_ms: int = 0, max_keys: int | None = None) -> None:
        """
        :param max_age_ms: values put in longer than this before the time asked for are left out; 0 for any age.
        :param max_keys: least recently used keys above this are dropped; None keeps all.
        """
        self._max_values, self._max_age_ms, self._max_keys = max_values, max_age_ms, max_keys
        #: by key (time, fid, value, number of the addition) newest first; least recently used key first
        self._entries: OrderedDict[int, list[tuple[int, int, Any, int]]] = OrderedDict()
        self._additions = 0
        #: keys that were dropped, with their values, because there were more than ``max_keys``
        self.dropped_keys = 0

    @classmethod
    def of_slot(cls, slot: Slot, max_keys: int | None = None) -> RecentValues:
        """An empty one for a history slot.

        :raises ValueError: the slot is no history.
        """
        if slot.history is None:
            raise ValueError(f"slot {slot.name} is no history")
        return cls(slot.max_values, slot.history.max_age_ms, max_keys)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: int, time_ms: int, fids: Sequence[int], values: Sequence[Any] | None = None) -> None:
        """Puts values in; those that come together keep their order.

        :param fids: what tells values apart.
        :param values: what :meth:`at` gives for them; None for the fids themselves.
        """
        entries = self._entries.setdefault(key, [])
        # The first one last, so that it lies in front.
        for fid, value in reversed(list(zip(fids, fids if values is None else values, strict=True))):
            # A later one of the same value stays beside it: its time may be that of a clock that is ahead.
            entries[:] = [entry for entry in entries if entry[1] != fid or entry[0] > time_ms]
            place = 0
            while place < len(entries) and entries[place][0] > time_ms:
                place += 1
            self._additions += 1
            entries.insert(place, (time_ms, fid, value, self._additions))
        # Not each time, since it takes longer than the rest.
        if len(entries) > 2 * self._max_values:
            entries[:] = self._kept(entries)
        self._touch(key)

    def at(self, key: int, at_ms: int) -> list[Any]:
        """Values that a request at this time may see, newest first; none for a key that is not known."""
        entries = self._entries.get(key)
        if entries is None:
            return []
        self._touch(key)
        oldest_ms = at_ms - self._max_age_ms if self._max_age_ms else None
        found: dict[int, Any] = {}
        for time_ms, fid, value, _ in entries:
            if time_ms < at_ms and (oldest_ms is None or time_ms >= oldest_ms):
                found.setdefault(fid, value)
        return list(found.values())[: self._max_values]

    def _kept(self, entries: list[tuple[int, int, Any, int]]) -> list[tuple[int, int, Any, int]]:
        """The newest values, and those added last."""
        last_added = sorted(number for *_, number in entries)[-self._max_values]
        newest: set[int] = set()
        kept = []
        for entry in entries:
            if (is_newest := entry[1] not in newest and len(newest) < self._max_values) or entry[3] >= last_added:
                kept.append(entry)
            if is_newest:
                newest.add(entry[1])
        return kept

    def _touch(self, key: int) -> None:
        self._entries.move_to_end(key)
        if self._max_keys is not None and len(self._entries) > self._max_keys:
            self._entries.popitem(last=False)
            self.dropped_keys += 1

"""Histories for an application that has no store of its own for them: in memory, by what the feature spec says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from rillet.schemas import FeatureSpec, RecordError, Slot
from rillet.schemas.histories import RecentValues
from rillet.schemas.records import MAX_TIME_MS

#: March 1973; below it lie the times in seconds of the next 3,000 years
_EARLIEST_MS = 10**11


class Histories:
    """The newest values of every history slot of a feature spec, by whose they are. Safe to share between threads.

    Told of each action once it happens, it gives the history columns of each request. It lives in one process and starts
    empty; an application of several processes needs a store that they share, or sends each user to the same one.

    What an action puts in is visible to requests later than its time, never at it. Actions may come in any order.

    >>> from rillet.schemas import parse_spec
    >>> spec = parse_spec('''
    ... [spec]
    ... name = "films"
    ... [[context]]
    ... name = "user"
    ... slot = 1
    ... kind = "id"
    ... [[context]]
    ... name = "recent_films"
    ... slot = 2
    ... kind = "history"
    ... of = "film"
    ... action = "watch"
    ... by = "user"
    ... max_values = 20
    ... [[item]]
    ... name = "film"
    ... slot = 16
    ... kind = "id"
    ... [[tasks]]
    ... name = "watch"
    ... action = "watch"
    ... window_ms = 600_000
    ... ''')
    >>> histories = Histories(spec)
    >>> histories.record("watch", 1_700_000_001_000, context={"user": 7}, item={"film": 42})
    >>> histories.record("watch", 1_700_000_002_000, context={"user": 7}, item={"film": 17})
    >>> histories.context({"user": 7}, at_ms=1_700_000_002_001)
    {'user': 7, 'recent_films': [17, 42]}
    """

    def __init__(self, spec: FeatureSpec, max_keys: int = 100_000) -> None:
        """
        :param max_keys: keys (users, say) per history; the least recently used are dropped above it. A key with 20 values
            takes up to about 7 kB.
        :raises ValueError: the spec has no history, or ``max_keys`` is below 1.
        """
        if not spec.histories:
            raise ValueError(f"feature spec {spec.name} has no slot of kind history")
        if max_keys < 1:
            raise ValueError(f"max_keys: {max_keys} is below 1")
        self._lock = Lock()
        self._ignored_actions = 0
        self._kept = [
            _Kept(
                slot.name,
                slot.history.action,
                next(owner for owner in spec.context if owner.name == slot.history.by),
                next(item for item in spec.item if item.name == slot.history.of),
                RecentValues.of_slot(slot, max_keys),
            )
            for slot in spec.histories
            if slot.history is not None
        ]

    @property
    def dropped_keys(self) -> int:
        """Keys whose values were dropped because there were more than ``max_keys``, over all histories."""
        with self._lock:
            return sum(kept.recent.dropped_keys for kept in self._kept)

    @property
    def ignored_actions(self) -> int:
        """Actions that no history asks for. If every action counts here, none has the name that the spec says."""
        with self._lock:
            return self._ignored_actions

    def record(self, action: str, time_ms: int, *, context: Mapping[str, Any], item: Mapping[str, Any]) -> None:
        """Takes an action. One that no history asks for is counted in :attr:`ignored_actions` and changes nothing: all that
        users do may be told.

        :param time_ms: when it happened, epoch ms, as in the ``ActionEvent``.
        :param context: slot name to value of whoever acted; the ``by`` slots are looked at.
        :param item: slot name to value of the item acted on, to a sequence for a ragged slot; the ``of`` slots are
            looked at.
        :raises RecordError: the time is none in ms, a value is missing, or its slot cannot take it; nothing was recorded.
        """
        time_ms = _time("time_ms", time_ms)
        found = []
        for kept in self._kept:
            if kept.action == action:
                values = _values(item, kept.of)
                found.append((kept, kept.key(context), _fids("item", kept.of, values), values))
        with self._lock:
            self._ignored_actions += not found
            for kept, key, fids, values in found:
                kept.recent.add(key, time_ms, fids, values)

    def context(self, context: Mapping[str, Any], at_ms: int) -> dict[str, Any]:
        """``context`` with its histories, as :meth:`CandidateEncoder.from_features` takes it.

        :param context: slot name to value, with the ``by`` slots.
        :param at_ms: event time of the request, epoch ms.
        :raises RecordError: the time is none in ms, a ``by`` slot is missing, or cannot take its value.
        """
        at_ms = _time("at_ms", at_ms)
        keys = [kept.key(context) for kept in self._kept]
        with self._lock:
            columns = {kept.name: kept.recent.at(key, at_ms) for kept, key in zip(self._kept, keys, strict=True)}
        return {**context, **columns}


class _Kept:
    """One history slot."""

    def __init__(self, name: str, action: str, by: Slot, of: Slot, recent: RecentValues) -> None:
        self.name, self.action, self.by, self.of, self.recent = name, action, by, of, recent

    def key(self, context: Mapping[str, Any]) -> int:
        return _fids("context", self.by, [_value("context", context, self.by)])[0]


def _time(name: str, value: Any) -> int:
    """An epoch time in ms. One in other units would be compared with times in ms: nothing would be seen, or everything."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise RecordError(f"{name}: {value!r:.80} is no integer; a time in milliseconds since 1970 is needed")
    if not _EARLIEST_MS <= value < MAX_TIME_MS:
        seconds = f": {value} is one in seconds" if _EARLIEST_MS <= value * 1000 < MAX_TIME_MS else ""
        raise RecordError(f"{name}: {value} is no time in milliseconds since 1970{seconds}")
    return int(value)


def _value(side: str, given: Mapping[str, Any], slot: Slot) -> Any:
    if slot.name not in given:
        raise RecordError(f"{side} column {slot.name} is missing")
    return given[slot.name]


def _values(item: Mapping[str, Any], slot: Slot) -> list[Any]:
    value = _value("item", item, slot)
    if not slot.ragged:
        return [value]
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise RecordError(f"item column {slot.name}: {value!r:.80} is not a sequence of values")
    return list(value)


def _fids(side: str, slot: Slot, values: Sequence[Any]) -> list[int]:
    try:
        fids: list[int] = slot.fids(values).tolist()
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"{side} column {slot.name}: {error}") from error
    return fids

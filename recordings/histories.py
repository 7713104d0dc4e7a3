"""Fills the history slots of recorded requests from the recorded actions.

What a history would have held had the application kept one: a recording that was made without it can be learned from
with it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rillet.recordings.format import Event
from rillet.schemas import MAX_VALUE, VALUE_BITS, ActionEvent, FeatureEvent, FeatureSpec, Slot, SpecError
from rillet.schemas.arrays import Int64s, UInt16s
from rillet.schemas.histories import RecentValues

#: requests on which actions may still come; about 0.5 kB each, more where pages are long
MAX_REQUESTS = 1_000_000


class HistoryFiller:
    """Turns events of one feature spec into those of another that differs in its histories, one event after the other.

    Histories that both specs have, with every setting the same, stay as they were recorded. Others are made of the
    actions that came before the request and lie before it in event time. An action that is stamped before its own
    request, because two clocks differ, counts as being at the request: a request never sees its own label.
    """

    def __init__(self, recorded: FeatureSpec, spec: FeatureSpec, *, max_requests: int = MAX_REQUESTS) -> None:
        """
        :param recorded: of the events that come.
        :param spec: of the events that are given; may also differ in its tasks.
        :param max_requests: requests above this are forgotten, the first that came first; actions on them are
            ``unknown`` from then on. By number and not by time, since one wrong clock would make it forget all.
        :raises SpecError: the specs differ in a slot that is no history.
        """
        _check_same_columns(recorded, spec)
        self._hash, self._recorded = spec.hash, recorded
        self._ragged = any(slot.ragged for slot in spec.context)
        self._max_requests = max_requests
        by = {slot.name: column for column, slot in enumerate(recorded.context)}
        of = {slot.name: column for column, slot in enumerate(recorded.item)}
        self._item_slots = len(recorded.item)
        #: for each context slot of ``spec``: its recorded column, or what it is filled from
        self._sources: list[int | _Derived] = [
            recorded.context.index(slot) if slot in recorded.context else _Derived(slot, by, of)
            for slot in spec.context
        ]
        self._derived = [source for source in self._sources if isinstance(source, _Derived)]
        self._wanted = {derived.action for derived in self._derived}
        #: requests on which actions may come, the first that came first
        self._requests: OrderedDict[str, _Shown] = OrderedDict()
        #: requests that were forgotten because there were more than ``max_requests``
        self.forgotten_requests = 0
        #: actions that a history asks for, on requests or impressions that are not known
        self.unknown_actions = 0

    def take(self, event: Event) -> Event:
        """The event under the new spec; events have to come in their order.

        :raises RecordError: a feature event that the recorded spec does not describe; it changes nothing.
        """
        if isinstance(event, ActionEvent):
            if event.action in self._wanted:
                self._act(event)
            return event
        # Before it is taken apart: columns of another spec or width would become other columns' values.
        self._recorded.check_feature(event)
        if self._hash == self._recorded.hash:
            return event
        columns = _context_columns(event)
        if self._derived:
            self._remember(event, columns)
        return self._fill(event, columns)

    def _remember(self, event: FeatureEvent, columns: list[list[int]]) -> None:
        if event.request_id in self._requests:
            return
        keys = tuple(columns[derived.by][0] for derived in self._derived)
        self._requests[event.request_id] = _Shown(
            event.event_time_ms, event.impression_ids, event.item_fids, event.item_lengths, keys
        )
        if len(self._requests) > self._max_requests:
            self._requests.popitem(last=False)
            self.forgotten_requests += 1

    def _fill(self, event: FeatureEvent, columns: list[list[int]]) -> FeatureEvent:
        fids: list[int] = []
        lengths = []
        for source in self._sources:
            if isinstance(source, _Derived):
                values = source.recent.at(columns[source.by][0], event.event_time_ms)
            else:
                values = columns[source]
            fids += values
            lengths.append(len(values))
        return replace(
            event,
            spec_hash=self._hash,
            context_fids=np.array(fids, np.int64),
            context_lengths=np.array(lengths, np.uint16) if self._ragged else None,
        )

    def _act(self, action: ActionEvent) -> None:
        shown = self._requests.get(action.request_id)
        if shown is None or action.impression_id not in (impressions := shown.impression_ids.tolist()):
            self.unknown_actions += 1
            return
        row = impressions.index(action.impression_id)
        at_ms = max(action.event_time_ms, shown.event_time_ms)
        for derived, key in zip(self._derived, shown.keys, strict=True):
            if derived.action == action.action:
                values = self._item_values(shown, row, derived.of)
                derived.recent.add(key, at_ms, (values & MAX_VALUE | derived.first_fid).tolist())

    def _item_values(self, shown: _Shown, row: int, column: int) -> Int64s:
        """Fids of one item slot of an impression."""
        at = row * self._item_slots + column
        if shown.item_lengths is None:
            return shown.item_fids[at : at + 1]
        start = int(shown.item_lengths[:at].sum(dtype=np.int64))
        return shown.item_fids[start : start + int(shown.item_lengths[at])]


class _Shown(NamedTuple):
    """What is kept of a request."""

    event_time_ms: int
    impression_ids: Int64s
    item_fids: Int64s
    item_lengths: UInt16s | None
    #: whose history an action goes into, by derived history
    keys: tuple[int, ...]


class _Derived:
    """A history that is filled: where its values come from, and those that it holds."""

    def __init__(self, slot: Slot, by: dict[str, int], of: dict[str, int]) -> None:
        if slot.history is None:
            raise SpecError(f"slot {slot.name} was not recorded, and is no history")
        self.recent = RecentValues.of_slot(slot)
        self.action = slot.history.action
        #: columns of the recorded context and item slots
        self.by, self.of = by[slot.history.by], of[slot.history.of]
        self.first_fid = slot.slot << VALUE_BITS


def _check_same_columns(recorded: FeatureSpec, spec: FeatureSpec) -> None:
    if spec.without_histories().slots != recorded.without_histories().slots or spec.dense_names != recorded.dense_names:
        raise SpecError(
            f"feature spec {spec.name} ({spec.hash:#x}) differs from the recorded one, {recorded.name} "
            f"({recorded.hash:#x}), in columns that are no history"
        )


def _context_columns(event: FeatureEvent) -> list[list[int]]:
    """Fids of each context slot."""
    fids: list[int] = event.context_fids.tolist()
    if event.context_lengths is None:
        return [[fid] for fid in fids]
    columns, start = [], 0
    for length in event.context_lengths.tolist():
        columns.append(fids[start : start + length])
        start += length
    return columns

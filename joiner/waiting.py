"""Actions of one bucket that came before their request, in the order of their arrival."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import BucketState, EntryKind, unpack_entry, unpack_waiting_entry
from rillet.schemas import ActionEvent, decode_as


class WaitingAction(NamedTuple):
    """An action, and when it entered its topic."""

    action: ActionEvent
    ingest_ms: int


class WaitingActions:
    """What waits, by request; a slice of it is given up as a whole."""

    def __init__(self, schedule: SliceSchedule) -> None:
        self._schedule = schedule
        self._of_request: dict[str, list[WaitingAction]] = {}
        #: requests that have or had an action waiting, by slice of the action
        self._requests: dict[int, list[str]] = {}
        #: number of the next action that waits
        self.arrivals = 0
        self._count = 0

    def __len__(self) -> int:
        """How many actions wait."""
        return self._count

    def oldest_ms(self) -> int | None:
        """Event time of an action of the request that has waited longest; None while none waits."""
        first = next(iter(self._of_request.values()), None)
        return first[0].action.event_time_ms if first else None

    def add(self, slice_: int, waiting: WaitingAction) -> None:
        """Lets an action wait, after those of its request that wait already."""
        self._of_request.setdefault(waiting.action.request_id, []).append(waiting)
        self._requests.setdefault(slice_, []).append(waiting.action.request_id)
        self._count += 1

    def take(self, request_id: str) -> list[WaitingAction]:
        """The actions of a request, which has come."""
        taken = self._of_request.pop(request_id, [])
        self._count -= len(taken)
        return taken

    def give_up(self, slice_: int) -> int:
        """Forgets the actions of a slice.

        :returns: how many there were: orphans.
        """
        orphans = 0
        for request_id in self._requests.pop(slice_, ()):
            actions = self._of_request.get(request_id, [])
            left = [w for w in actions if self._schedule.slice_of(w.action.event_time_ms) != slice_]
            orphans += len(actions) - len(left)
            if left:
                self._of_request[request_id] = left
            else:
                self._of_request.pop(request_id, None)
        self._count -= orphans
        return orphans

    def restore(self, slices: Iterable[int], state: BucketState) -> None:
        """Takes in what the checkpointed state has of these slices."""
        found: list[tuple[int, int, WaitingAction]] = []
        for slice_ in slices:
            waiting: dict[str, list[tuple[int, int, WaitingAction]]] = {}
            for kind, ingest_ms, body in map(unpack_entry, state.read("waiting", slice_)):
                if kind is EntryKind.ARRIVED:
                    waiting.pop(body.decode(), None)
                    continue
                number, record = unpack_waiting_entry(body)
                self.arrivals = max(self.arrivals, number + 1)
                action = decode_as(ActionEvent, record)
                waiting.setdefault(action.request_id, []).append((number, slice_, WaitingAction(action, ingest_ms)))
            for actions in waiting.values():
                found += actions
        for _, slice_, one in sorted(found, key=lambda item: item[0]):
            self.add(slice_, one)

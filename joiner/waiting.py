"""Actions of one bucket that came before their request, in the order of their arrival; so many bytes of them at most."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from rillet.joiner.errors import WaitingFullError
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import BucketState, EntryKind, unpack_entry, unpack_waiting_entry
from rillet.schemas import ActionEvent, decode_as

#: what an action that waits costs in memory beyond its record (measured with tracemalloc, rounded up)
_OBJECT_BYTES = 850


class WaitingAction(NamedTuple):
    """An action, and when it entered its topic."""

    action: ActionEvent
    ingest_ms: int
    #: grows with arrival
    number: int
    #: what it costs in memory
    size_bytes: int


class WaitingActions:
    """What waits, by request and slice; a slice of it is given up as a whole."""

    def __init__(self, schedule: SliceSchedule, max_bytes: int) -> None:
        """:param max_bytes: that actions may cost in memory, by estimate."""
        self._schedule = schedule
        self._max_bytes = max_bytes
        self._of_request: dict[str, dict[int, list[WaitingAction]]] = {}
        #: requests that have an action waiting, by slice of the action
        self._requests: dict[int, set[str]] = {}
        #: number of the next action that waits
        self.arrivals = 0
        self.used_bytes = 0
        self._count = 0

    def __len__(self) -> int:
        """How many actions wait."""
        return self._count

    def oldest_ms(self) -> int | None:
        """Event time of an action of the request that has waited longest; None while none waits."""
        first = next(iter(self._of_request.values()), None)
        return None if first is None else next(iter(first.values()))[0].action.event_time_ms

    def check_room(self, record: bytes) -> None:
        """Whether one more action may wait.

        :raises WaitingFullError: it would cost more than is left.
        """
        if self.used_bytes + _OBJECT_BYTES + len(record) > self._max_bytes:
            raise WaitingFullError(
                f"request_id: its feature event has not come, and {self._count} actions wait already, which is all that "
                f"the bucket's share of [joiner] waiting_bytes allows ({self._max_bytes} bytes). Look why feature events do "
                "not come, or raise waiting_bytes; then this record may be sent again"
            )

    def add(self, action: ActionEvent, ingest_ms: int, record: bytes) -> int:
        """Lets an action wait, after those of its request that wait already; see :meth:`check_room`.

        :param record: the action in single-object encoding.
        :returns: its number.
        """
        number = self.arrivals
        self._put(WaitingAction(action, ingest_ms, number, _OBJECT_BYTES + len(record)))
        return number

    def take(self, request_id: str) -> list[WaitingAction]:
        """The actions of a request, which has come, in order of arrival."""
        slices = self._of_request.pop(request_id, {})
        for slice_ in slices:
            requests = self._requests[slice_]
            requests.discard(request_id)
            if not requests:
                del self._requests[slice_]
        taken = sorted((one for actions in slices.values() for one in actions), key=attrgetter("number"))
        self._forget(taken)
        return taken

    def take_all(self) -> list[WaitingAction]:
        """All actions, in order of arrival."""
        taken = [one for request_id in list(self._of_request) for one in self.take(request_id)]
        return sorted(taken, key=attrgetter("number"))

    def give_up(self, slice_: int) -> int:
        """Forgets the actions of a slice.

        :returns: how many there were: orphans.
        """
        before = self._count
        for request_id in self._requests.pop(slice_, ()):
            slices = self._of_request[request_id]
            self._forget(slices.pop(slice_))
            if not slices:
                del self._of_request[request_id]
        return before - self._count

    def restore(self, slices: Iterable[int], state: BucketState) -> None:
        """Takes in what the checkpointed state has of these slices, even where a bound that was lowered leaves no room."""
        found: list[WaitingAction] = []
        for slice_ in slices:
            waiting: dict[str, list[WaitingAction]] = {}
            for kind, ingest_ms, body in map(unpack_entry, state.read("waiting", slice_)):
                if kind is EntryKind.ARRIVED:
                    waiting.pop(body.decode(), None)
                    continue
                number, record = unpack_waiting_entry(body)
                self.arrivals = max(self.arrivals, number + 1)
                action = decode_as(ActionEvent, record)
                one = WaitingAction(action, ingest_ms, number, _OBJECT_BYTES + len(record))
                waiting.setdefault(action.request_id, []).append(one)
            for actions in waiting.values():
                found += actions
        for one in sorted(found, key=attrgetter("number")):
            self._put(one)

    def _put(self, one: WaitingAction) -> None:
        request_id = one.action.request_id
        slice_ = self._schedule.slice_of(one.action.event_time_ms)
        self._of_request.setdefault(request_id, {}).setdefault(slice_, []).append(one)
        self._requests.setdefault(slice_, set()).add(request_id)
        self.arrivals = max(self.arrivals, one.number + 1)
        self._count += 1
        self.used_bytes += one.size_bytes

    def _forget(self, actions: list[WaitingAction]) -> None:
        self._count -= len(actions)
        self.used_bytes -= sum(one.size_bytes for one in actions)

"""Actions of one bucket that came before their request, in the order of their arrival; so many bytes of them at most."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from rillet.joiner.errors import WaitingFullError
from rillet.joiner.header import BucketHeader
from rillet.joiner.state import BucketState, pack_waiting, unpack_waiting, waiting_key
from rillet.schemas import ActionEvent, decode_as

#: what an action that waits costs in memory beyond its record (measured with tracemalloc, rounded up)
_OBJECT_BYTES = 850
#: actions that may wait for one request: its feature event labels all of them in one call
_MOST_OF_REQUEST = 1_000
#: slots of a bucket when its first action waits; they double when they are all taken
_FIRST_SLOTS = 16


class WaitingAction(NamedTuple):
    """An action, and when it entered its topic."""

    action: ActionEvent
    ingest_ms: int
    #: what it costs in memory
    size_bytes: int
    #: of its event time
    slice_: int
    #: its place in the state
    slot: int


class WaitingActions:
    """What waits, by request and by slice; a slice is given up in steps.

    All of it is in memory, since its bytes are bounded, and an entry each in the engine's state. A start finds the entries by
    their slots, so that the header is saved when there are more slots, not with each action.
    """

    def __init__(self, header: BucketHeader, max_bytes: int, state: BucketState) -> None:
        """
        :param header: of the bucket, which counts what waits.
        :param max_bytes: that actions may cost in memory, by estimate.
        :param state: what waits there is read.
        """
        self._header = header
        self._max_bytes = max_bytes
        #: by slot, in order of arrival
        self._of_request: dict[str, dict[int, WaitingAction]] = {}
        self._of_slice: dict[int, dict[int, WaitingAction]] = {}
        #: free slots before the first one that nothing was ever put into
        self._free: list[int] = []
        self._first_new = header.slots
        #: the number that the next action gets, in order of arrival
        self._arrival = 0
        self._read(state)

    def __len__(self) -> int:
        """How many actions wait."""
        return sum(self._header.waiting.values())

    def oldest_slice(self) -> int | None:
        """The slice of the action with the earliest event time; None while none waits."""
        return min(self._header.waiting, default=None)

    def check_room(self, request_id: str, record: bytes) -> None:
        """Whether one more action may wait.

        :raises WaitingFullError: it would cost more than is left, or there are too many of its request.
        """
        if self._header.waiting_bytes + _OBJECT_BYTES + len(record) > self._max_bytes:
            raise WaitingFullError(
                f"request_id: its feature event has not come, and {len(self)} actions wait already, which is all that "
                f"the bucket's share of [joiner] waiting_bytes allows ({self._max_bytes} bytes). Look why feature events do "
                "not come, or raise waiting_bytes; then this record may be sent again"
            )
        if len(self._of_request.get(request_id, ())) >= _MOST_OF_REQUEST:
            raise WaitingFullError(
                f"request_id: its feature event has not come, and {_MOST_OF_REQUEST:,} actions wait for it already. Is it "
                "the id of one request?"
            )

    def add(self, action: ActionEvent, slice_: int, ingest_ms: int, record: bytes, state: BucketState) -> None:
        """Lets an action wait, after those of its request that wait already; see :meth:`check_room`.

        :param slice_: of its event time.
        :param record: the action in single-object encoding.
        """
        header = self._header
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._first_new
            self._first_new += 1
            if slot >= header.slots:
                header.slots = max(_FIRST_SLOTS, 2 * header.slots)
                state.save_header(header.to_bytes())
        state.put(waiting_key(slot), pack_waiting(self._arrival, slice_, ingest_ms, record))
        self._arrival += 1
        self._keep(WaitingAction(action, ingest_ms, _OBJECT_BYTES + len(record), slice_, slot))

    def take(self, request_id: str, state: BucketState) -> list[WaitingAction]:
        """The actions of a request, which has come, in order of arrival; they wait no longer."""
        taken = list(self._of_request.get(request_id, _NONE).values())
        for one in taken:
            self._remove(one, state)
        return taken

    def give_up(self, slice_: int, most: int, state: BucketState) -> int:
        """Forgets the actions of a slice that have waited longest, at most so many.

        :returns: how many there were: orphans.
        """
        orphans = list(islice(self._of_slice.get(slice_, _NONE).values(), most))
        for one in orphans:
            self._remove(one, state)
        return len(orphans)

    def release_slots(self) -> None:
        """Gives the slots back where nothing waits. The header has to be saved after it."""
        if self._first_new and not self._header.waiting:
            self._header.slots = self._first_new = 0
            self._free.clear()

    def _read(self, state: BucketState) -> None:
        """Reads what waits from the state; the bytes that may wait bound how much that is."""
        found = []
        for slot in reversed(range(self._header.slots)):
            value = state.get(waiting_key(slot))
            if value is None:
                self._free.append(slot)
            else:
                found.append((*unpack_waiting(value), slot))
        for arrival, slice_, ingest_ms, record, slot in sorted(found):
            action = decode_as(ActionEvent, record)
            self._keep(WaitingAction(action, ingest_ms, _OBJECT_BYTES + len(record), slice_, slot))
            self._arrival = arrival + 1

    def _keep(self, one: WaitingAction) -> None:
        header, slice_ = self._header, one.slice_
        self._of_request.setdefault(one.action.request_id, {})[one.slot] = one
        self._of_slice.setdefault(slice_, {})[one.slot] = one
        header.waiting[slice_] = header.waiting.get(slice_, 0) + 1
        header.waiting_bytes += one.size_bytes

    def _remove(self, one: WaitingAction, state: BucketState) -> None:
        """Takes an action out of memory and state."""
        header, request_id, slice_ = self._header, one.action.request_id, one.slice_
        state.remove(waiting_key(one.slot))
        self._free.append(one.slot)
        of_request, of_slice = self._of_request[request_id], self._of_slice[slice_]
        del of_request[one.slot], of_slice[one.slot]
        if not of_request:
            del self._of_request[request_id]
        header.waiting[slice_] -= 1
        header.waiting_bytes -= one.size_bytes
        if not of_slice:
            del self._of_slice[slice_], header.waiting[slice_]


_NONE: dict[int, WaitingAction] = {}

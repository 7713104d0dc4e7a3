"""Actions of one bucket that came before their request, in the order of their arrival; so many bytes of them at most."""

from __future__ import annotations

from typing import NamedTuple

from rillet.joiner.errors import WaitingFullError
from rillet.joiner.header import BucketHeader, WaitingSlice
from rillet.joiner.state import (
    BucketState,
    Place,
    pack_places,
    pack_waiting,
    unpack_places,
    unpack_waiting,
    waiting_key,
    waiting_places_key,
)
from rillet.schemas import ActionEvent, decode_as

#: what an action that waits costs in memory beyond its record (measured with tracemalloc, rounded up)
_OBJECT_BYTES = 850
#: actions that may wait for one request, whose places are one entry of the state
_MOST_OF_REQUEST = 1_000


class WaitingAction(NamedTuple):
    """An action, and when it entered its topic."""

    action: ActionEvent
    ingest_ms: int
    #: what it costs in memory
    size_bytes: int


class WaitingActions:
    """What waits, by request and slice; a slice of it is given up in steps.

    The engine's state has it all; memory has what has come since the start, and is asked alone once nothing else waits.
    """

    def __init__(self, header: BucketHeader, max_bytes: int) -> None:
        """
        :param header: of the bucket, in which what waits is counted. It is for the caller to save.
        :param max_bytes: that actions may cost in memory, by estimate.
        """
        self._header = header
        self._max_bytes = max_bytes
        self._actions: dict[Place, WaitingAction] = {}
        #: places of the actions of a request, in order of arrival; of all that wait, unless some are in the state alone
        self._places: dict[str, list[Place]] = {}
        #: slices of which actions may be in the state alone
        self._lacking = set(header.waiting)

    def __len__(self) -> int:
        """How many actions wait."""
        return sum(slice_.waiting for slice_ in self._header.waiting.values())

    def oldest_slice(self) -> int | None:
        """The slice of the action with the earliest event time; None while none waits."""
        return min((slice_ for slice_, one in self._header.waiting.items() if one.waiting), default=None)

    def check_room(self, request_id: str, record: bytes, state: BucketState) -> None:
        """Whether one more action may wait.

        :raises WaitingFullError: it would cost more than is left, or there are too many of its request.
        """
        if self._header.waiting_bytes + _OBJECT_BYTES + len(record) > self._max_bytes:
            raise WaitingFullError(
                f"request_id: its feature event has not come, and {len(self)} actions wait already, which is all that "
                f"the bucket's share of [joiner] waiting_bytes allows ({self._max_bytes} bytes). Look why feature events do "
                "not come, or raise waiting_bytes; then this record may be sent again"
            )
        if len(self._of(request_id, state)) >= _MOST_OF_REQUEST:
            raise WaitingFullError(
                f"request_id: its feature event has not come, and {_MOST_OF_REQUEST:,} actions wait for it already. Is it "
                "the id of one request?"
            )

    def add(self, action: ActionEvent, slice_: int, ingest_ms: int, record: bytes, state: BucketState) -> None:
        """Lets an action wait, after those of its request that wait already; see :meth:`check_room`.

        :param slice_: of its event time.
        :param record: the action in single-object encoding.
        """
        places = self._of(action.request_id, state)
        in_slice = self._header.waiting.setdefault(slice_, WaitingSlice())
        place = Place(slice_, in_slice.count)
        in_slice.count += 1
        in_slice.waiting += 1
        places.append(place)
        self._places[action.request_id] = places
        one = self._actions[place] = WaitingAction(action, ingest_ms, _OBJECT_BYTES + len(record))
        self._header.waiting_bytes += one.size_bytes
        state.put(waiting_key(*place), pack_waiting(ingest_ms, record))
        state.put(waiting_places_key(action.request_id), pack_places(places))

    def take(self, request_id: str, state: BucketState) -> list[WaitingAction]:
        """The actions of a request, which has come, in order of arrival; they wait no longer."""
        if not self._header.waiting:
            return []
        places = self._of(request_id, state)
        if not places:
            return []
        taken = [self._remove(place, state) for place in places]
        self._places.pop(request_id, None)
        state.remove(waiting_places_key(request_id))
        return [one for one in taken if one is not None]

    def give_up(self, slice_: int, first: int, most: int, state: BucketState) -> int:
        """Forgets the actions of a slice whose numbers are from ``first`` on, at most so many.

        :returns: how many there were: orphans.
        """
        before = self._header.waiting[slice_].waiting
        for n in range(first, first + most):
            place = Place(slice_, n)
            one = self._remove(place, state)
            if one is not None:
                request_id = one.action.request_id
                places = self._of(request_id, state)
                places.remove(place)
                if places:
                    state.put(waiting_places_key(request_id), pack_places(places))
                else:
                    self._places.pop(request_id, None)
                    state.remove(waiting_places_key(request_id))
        return before - self._header.waiting[slice_].waiting

    def close_slice(self, slice_: int) -> None:
        """The last action of a slice waits no longer."""
        del self._header.waiting[slice_]
        self._lacking.discard(slice_)

    def lose(self) -> None:
        """Forgets what is in memory, as a start would."""
        self._actions.clear()
        self._places.clear()
        self._lacking = set(self._header.waiting)

    def _of(self, request_id: str, state: BucketState) -> list[Place]:
        places = self._places.get(request_id)
        if places is None and self._lacking:
            value = state.get(waiting_places_key(request_id))
            if value is not None:
                # From here on memory has what changes.
                places = self._places[request_id] = unpack_places(value)
        return [] if places is None else places

    def _remove(self, place: Place, state: BucketState) -> WaitingAction | None:
        """Takes an action out of memory and state, None where there is none any more."""
        one = self._at(place, state)
        if one is not None:
            self._actions.pop(place, None)
            state.remove(waiting_key(*place))
            self._header.waiting[place.slice_].waiting -= 1
            self._header.waiting_bytes -= one.size_bytes
        return one

    def _at(self, place: Place, state: BucketState) -> WaitingAction | None:
        one = self._actions.get(place)
        if one is None and place.slice_ in self._lacking:
            value = state.get(waiting_key(*place))
            if value is not None:
                ingest_ms, record = unpack_waiting(value)
                one = WaitingAction(decode_as(ActionEvent, record), ingest_ms, _OBJECT_BYTES + len(record))
        return one

"""The requests of one bucket: found by memory, disk or the engine's state, in this order; one at a time.

Nothing is read ahead: after a start a bucket knows its header, and asks the engine for the requests that it meets.
"""

from __future__ import annotations

from rillet.joiner.entry import Entry, pairs_of
from rillet.joiner.errors import JoinerError
from rillet.joiner.header import NEVER_MS, BucketHeader, WorkKind
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import (
    BucketState,
    Labels,
    Place,
    gathered_key,
    pack_place,
    pack_request,
    place_key,
    request_key,
    unpack_place,
    unpack_request,
)
from rillet.joiner.store import SliceStore
from rillet.joiner.waiting import WaitingActions
from rillet.joiner.works import next_work


class Bucket:
    """What the joiner has in memory of one bucket."""

    __slots__ = ("_store", "_woken_ms", "header", "number", "waiting")

    def __init__(self, number: int, header: BucketHeader, waiting: WaitingActions, store: SliceStore) -> None:
        self.number = number
        self.header = header
        self.waiting = waiting
        self._store = store
        #: the watermark that the bucket has last asked for
        self._woken_ms: int | None = None
        store.expect(number, header.slices)

    def find(self, request_id: str, state: BucketState) -> Entry | None:
        """A request that is remembered, with its event decoded."""
        entry = self._store.find(self.number, request_id)
        if entry is None and self._store.lacks(self.number):
            place = state.get(place_key(request_id))
            if place is None:
                return None
            entry = self._load(*unpack_place(place), state).decode(self._store.decode)
            if self._store.has_room(entry):
                self._store.put(self.number, entry)
        if entry is not None:
            work = self.header.in_progress(WorkKind.FORGET, entry.slice_)
            if work is not None and entry.n < work.done:
                return None
        return entry

    def add(self, entry: Entry, state: BucketState) -> None:
        """Remembers a request that is new, in a slice that is open; its number is that of :meth:`count`."""
        slice_, n = entry.slice_, entry.n
        state.put(request_key(slice_, n), pack_request(entry.request_id, entry.ingest_ms, entry.data))
        self._keep_place(entry, state)
        self.header.slices[slice_].count = n + 1
        entry.size_bytes += len(entry.times)
        self._store.put(self.number, entry)

    def keep_labels(self, entry: Entry, grown: int, state: BucketState) -> None:
        """Keeps the labels of a request, which have changed.

        :param grown: bytes by which its times are more.
        """
        self._keep_place(entry, state)
        self._store.update(self.number, entry, grown)

    def count(self, slice_: int, state: BucketState) -> int:
        """How many requests a slice has. The header is not saved with each, so after a start the last one is looked for."""
        open_slice = self.header.slices[slice_]
        if not open_slice.exact:
            open_slice.count = _first_missing(open_slice.count, slice_, state)
            open_slice.exact = True
        return open_slice.count

    def read(self, slice_: int, first: int, most: int, most_bytes: int, state: BucketState) -> list[Entry]:
        """Requests of a slice from a number on: at most so many, and until they have so many bytes; decoded where they were.

        :param most_bytes: of their records, the last one not counted.
        """
        entries: list[Entry] = []
        size = 0
        for n in range(first, min(first + most, self.count(slice_, state))):
            entry = self._store.at(self.number, slice_, n) or self._read(slice_, n, state)
            entries.append(entry)
            size += entry.size_bytes
            if size >= most_bytes:
                break
        return entries

    def forget(self, slice_: int, first: int, most: int, most_bytes: int, state: BucketState) -> list[Entry]:
        """Takes requests of a slice out of the state, those that :meth:`read` gives; returns them.

        They are fewer where so many of their pairs have gathered actions.
        """
        forgotten: list[Entry] = []
        gathered = 0
        for entry in self.read(slice_, first, most, most_bytes, state):
            state.remove(request_key(slice_, entry.n))
            state.remove(place_key(entry.request_id))
            for pair in pairs_of(entry.gathering):
                state.remove(gathered_key(slice_, entry.n, pair))
            forgotten.append(entry)
            gathered += entry.gathering.bit_count()
            if gathered >= most:
                break
        return forgotten

    def close_slice(self, slice_: int) -> None:
        """The last request of a slice is forgotten."""
        del self.header.slices[slice_]
        self._store.drop(slice_, self.number)

    def wake(self, schedule: SliceSchedule, state: BucketState, after_ms: int = NEVER_MS) -> None:
        """Asks for the bucket's turn when the next thing is due, unless that is not after a time."""
        if self._woken_ms is not None and self._woken_ms <= after_ms:
            self._woken_ms = None
        due = next_work(self.header, schedule)
        if due is not None and due[0] > after_ms and (self._woken_ms != due[0] or after_ms != NEVER_MS):
            state.wake_at(due[0])
            self._woken_ms = due[0]

    def _keep_place(self, entry: Entry, state: BucketState) -> None:
        labels = Labels(entry.positives, entry.gathering, entry.times)
        state.put(place_key(entry.request_id), pack_place(Place(entry.slice_, entry.n), labels))

    def _read(self, slice_: int, n: int, state: BucketState) -> Entry:
        """A request by its number, from the engine's state."""
        self._store.engine_reads += 1
        request_id, ingest_ms, data = unpack_request(self._kept(request_key(slice_, n), state))
        _, labels = unpack_place(self._kept(place_key(request_id), state))
        return Entry.of_record(request_id, data, ingest_ms, *labels, slice_, n)

    def _load(self, at: Place, labels: Labels, state: BucketState) -> Entry:
        """A request of which place and labels are known, from the engine's state."""
        self._store.engine_reads += 1
        request_id, ingest_ms, data = unpack_request(self._kept(request_key(*at), state))
        return Entry.of_record(request_id, data, ingest_ms, *labels, at.slice_, at.n)

    def _kept(self, key: str, state: BucketState) -> bytes:
        value = state.get(key)
        if value is None:
            raise JoinerError(f"entry {key} is missing in the checkpointed state of bucket {self.number}")
        return value


def _first_missing(known: int, slice_: int, state: BucketState) -> int:
    """The first number of a slice, from one on, that no request has; their numbers have no gaps."""
    step = 1
    while state.get(request_key(slice_, known + step - 1)) is not None:
        known += step
        step *= 2
    while step > 1:
        step //= 2
        if state.get(request_key(slice_, known + step - 1)) is not None:
            known += step
    return known

"""What the joiner remembers of one request: its feature event, and which impressions are positive for which task.

The event is kept as it came, and decoded while it is worked with: as bytes it takes a third of the memory, and moves to
disk as it is. The positive pairs are one integer used as a bit set: bit ``task * N + i`` for impression i of N. Another one
has the pairs of which actions were gathered that are not enough for a rule yet (``joiner/gathered.py``). Where the row of a positive
waits for its window to close, the times of its action are kept too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate

import numpy as np

from rillet.joiner.errors import StoreError
from rillet.schemas import FeatureEvent, decode_as, encode
from rillet.schemas.arrays import Int64s

#: reads a feature event as it was when it came
Decode = Callable[[bytes], FeatureEvent]
decode_feature: Decode = partial(decode_as, FeatureEvent)

_HEAD = struct.Struct("<qqIIIII")
_TIMES = struct.Struct("<Iqq")
#: one element of :attr:`Entry.times`; ``pair`` is the bit of the pair
TIMES = np.dtype([("pair", "<u4"), ("action_time_ms", "<i8"), ("action_ingest_ms", "<i8")])
#: what a FeatureEvent and its arrays cost beyond their numbers, and what an entry with its record costs beyond that
#: (measured with tracemalloc, rounded up)
EVENT_BYTES, _RECORD_BYTES = 1_600, 600


class Entry:
    """A request waiting for its label windows to close.

    :param data: the record of the event; empty where there is none, which an engine without state does not need.
    :param slice_: of the request, and ``n`` its number there.
    """

    __slots__ = (
        "_event",
        "data",
        "gathering",
        "ingest_ms",
        "n",
        "on_disk",
        "positives",
        "request_id",
        "size_bytes",
        "slice_",
        "times",
    )

    def __init__(
        self,
        event: FeatureEvent,
        ingest_ms: int,
        positives: int = 0,
        times: bytes = b"",
        *,
        data: bytes = b"",
        slice_: int = 0,
        n: int = 0,
    ) -> None:
        self._event: FeatureEvent | None = event
        self.request_id = event.request_id
        self.ingest_ms = ingest_ms
        self.positives = positives
        #: the pairs with gathered actions, a bit set like ``positives``; the actions are in the engine's state alone
        self.gathering = 0
        #: times of the actions whose rows wait for the close of their windows, elements of TIMES one after the other; as bytes, because an object each would cost more than the rest of the entry
        self.times = times
        self.data = data
        self.slice_ = slice_
        self.n = n
        #: whether the disk tier has a copy, which then has to follow
        self.on_disk = False
        #: what it costs in memory, the decoded event not counted where the record is there
        self.size_bytes = (_RECORD_BYTES + len(data) if data else _event_bytes(event)) + len(times)

    @classmethod
    def of_record(
        cls,
        request_id: str,
        data: bytes,
        ingest_ms: int,
        positives: int,
        gathering: int,
        times: bytes,
        slice_: int,
        n: int,
    ) -> Entry:
        """An entry whose event is decoded when it is needed, with :meth:`decode`."""
        entry = cls.__new__(cls)
        entry._event = None
        entry.request_id = request_id
        entry.ingest_ms = ingest_ms
        entry.positives = positives
        entry.gathering = gathering
        entry.times = times
        entry.data = data
        entry.slice_ = slice_
        entry.n = n
        entry.on_disk = False
        entry.size_bytes = _RECORD_BYTES + len(data) + len(times)
        return entry

    @property
    def event(self) -> FeatureEvent:
        """The feature event; of an entry that was read or released, only after :meth:`decode`."""
        if self._event is None:
            raise StoreError(f"request {self.request_id} was not decoded")
        return self._event

    @property
    def decoded(self) -> bool:
        """Whether the event is there."""
        return self._event is not None

    def decode(self, decode: Decode = decode_feature) -> Entry:
        """Has the event decoded; returns itself."""
        if self._event is None:
            self._event = decode(self.data)
        return self

    def release(self) -> None:
        """Forgets the decoded event where there is a record to decode it from again."""
        if self.data:
            self._event = None

    def index_of(self, impression_id: int) -> int:
        """Position of an impression in the request, -1 when it was not shown."""
        at = (self.event.impression_ids == impression_id).nonzero()[0]
        return int(at[0]) if len(at) else -1

    def is_positive(self, task: int, index: int) -> bool:
        """Whether impression ``index`` is positive for a task."""
        return bool(self.positives & self._bit(task, index))

    def add_positive(self, task: int, index: int) -> None:
        """Makes impression ``index`` positive for a task."""
        self.positives |= self._bit(task, index)

    def keep_times(self, task: int, index: int, action_time_ms: int, action_ingest_ms: int) -> None:
        """Remembers the times of the action that made a pair positive, for the close of its window."""
        self.times += _TIMES.pack(task * len(self.event.impression_ids) + index, action_time_ms, action_ingest_ms)

    def negatives(self, task: int) -> Int64s:
        """Indices of the impressions that are not positive for a task, int64[k]."""
        n = len(self.event.impression_ids)
        positives = (self.positives >> (task * n)) & ((1 << n) - 1)
        if not positives:
            return np.arange(n)
        return np.fromiter((i for i in range(n) if not positives >> i & 1), np.int64)

    def _bit(self, task: int, index: int) -> int:
        return 1 << (task * len(self.event.impression_ids) + index)

    def to_bytes(self) -> bytes:
        """The form on disk."""
        name, positives, gathering = self.request_id.encode(), pack_pairs(self.positives), pack_pairs(self.gathering)
        sizes = len(name), len(positives), len(gathering), len(self.times)
        head = _HEAD.pack(self.slice_, self.ingest_ms, self.n, *sizes)
        return head + name + positives + gathering + self.times + (self.data or encode(self.event))

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Reads back :meth:`to_bytes`; the event is not decoded."""
        slice_, ingest_ms, n, *sizes = _HEAD.unpack_from(data)
        name, first, times, body = list(accumulate(sizes, initial=_HEAD.size))[1:]
        request_id = data[_HEAD.size : name].decode()
        positives, gathering = int.from_bytes(data[name:first], "little"), int.from_bytes(data[first:times], "little")
        return cls.of_record(request_id, data[body:], ingest_ms, positives, gathering, data[times:body], slice_, n)


def pack_pairs(pairs: int) -> bytes:
    """A bit set in as few bytes as hold it, little-endian."""
    return pairs.to_bytes((pairs.bit_length() + 7) // 8, "little") if pairs else b""


def pairs_of(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _event_bytes(event: FeatureEvent) -> int:
    columns = (
        event.context_fids,
        event.context_lengths,
        event.impression_ids,
        event.item_fids,
        event.item_lengths,
        event.dense,
        event.served_logits,
    )
    return EVENT_BYTES + sum(column.nbytes for column in columns if column is not None)

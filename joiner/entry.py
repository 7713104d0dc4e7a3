"""What the joiner remembers of one request: its feature event, and which impressions are positive for which task.

The positive pairs are one integer used as a bit set: bit ``task * N + i`` for impression i of N. Where the row of a
positive waits for its window to close, the times of its action are kept too. The form on disk is ``ingest_ms int64 |
length of positives uint32 | length of times uint32 | positives, little-endian | times | feature event, Avro``.
"""

from __future__ import annotations

import struct
from collections.abc import Container

import numpy as np

from rillet.schemas import FeatureEvent, decode_as, encode
from rillet.schemas.arrays import Int64s

_HEAD = struct.Struct("<qII")
_TIMES = struct.Struct("<Iqq")
#: one element of :attr:`Entry.times`; ``pair`` is the bit of the pair
TIMES = np.dtype([("pair", "<u4"), ("action_time_ms", "<i8"), ("action_ingest_ms", "<i8")])
#: what a FeatureEvent and its arrays cost beyond their numbers (measured with tracemalloc, rounded up)
_OBJECT_BYTES = 1_600


class Entry:
    """A request waiting for its label windows to close."""

    __slots__ = ("_counted_times", "event", "ingest_ms", "positives", "size_bytes", "times")

    def __init__(self, event: FeatureEvent, ingest_ms: int, positives: int = 0, times: bytes = b"") -> None:
        self.event = event
        self.ingest_ms = ingest_ms
        self.positives = positives
        #: times of the actions whose rows wait for the close of their windows, elements of TIMES one after the other;
        #: as bytes, because an object each would cost more than the rest of the entry
        self.times = times
        self._counted_times = len(times)
        self.size_bytes = _OBJECT_BYTES + sum(
            column.nbytes
            for column in (
                event.context_fids,
                event.context_lengths,
                event.impression_ids,
                event.item_fids,
                event.item_lengths,
                event.dense,
                event.served_logits,
            )
            if column is not None
        )
        self.size_bytes += len(times)

    def recount(self) -> int:
        """Brings ``size_bytes`` up to date with :attr:`times`; returns what was added."""
        grown = len(self.times) - self._counted_times
        self._counted_times = len(self.times)
        self.size_bytes += grown
        return grown

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

    def restore(self, positives: int, action_time_ms: int, action_ingest_ms: int, keeps_times: Container[int]) -> None:
        """Takes what one action made of the pairs, as the checkpointed state tells it.

        :param positives: all positive pairs after the action.
        :param keeps_times: the tasks whose positives need the times of their actions.
        """
        n, added = len(self.event.impression_ids), positives & ~self.positives
        while added:
            pair = added.bit_length() - 1
            added ^= 1 << pair
            task, index = divmod(pair, n)
            if task in keeps_times:
                self.keep_times(task, index, action_time_ms, action_ingest_ms)
        self.positives = positives

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
        positives = pack_positives(self.positives)
        return _HEAD.pack(self.ingest_ms, len(positives), len(self.times)) + positives + self.times + encode(self.event)

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        """Reads back :meth:`to_bytes`."""
        ingest_ms, length, times_length = _HEAD.unpack_from(data)
        times = _HEAD.size + length
        body = times + times_length
        positives = int.from_bytes(data[_HEAD.size : times], "little")
        return cls(decode_as(FeatureEvent, data[body:]), ingest_ms, positives, data[times:body])


def pack_positives(positives: int) -> bytes:
    """The bit set in as few bytes as hold it, little-endian."""
    return positives.to_bytes((positives.bit_length() + 7) // 8, "little")

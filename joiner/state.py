"""What the joiner keeps in the engine's checkpointed state, bucket by bucket.

The state is the truth; memory and local disk are rebuilt from it. Each bucket has a small header (how far
it is closed, which slices live) and two journals cut into slices: every feature event with the actions that
found it, and the actions that wait for their feature event. Journals are appended to and cleared whole.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

from rillet.joiner.errors import JoinerError

JournalName = Literal["features", "waiting"]

_ENTRY = struct.Struct("<BqI")
_HEADER = struct.Struct("<QqqII")
#: nothing is closed yet
NEVER_MS = -(1 << 62)


class BucketState(Protocol):
    """One bucket's part of the checkpointed state; the engine's adapter implements it."""

    def load_header(self) -> bytes | None:
        """The header last saved, None for a bucket never seen."""

    def save_header(self, header: bytes) -> None:
        """Replaces the header."""

    def append(self, journal: JournalName, slice_: int, entry: bytes) -> None:
        """Adds an entry to a slice of a journal."""

    def read(self, journal: JournalName, slice_: int) -> Iterable[bytes]:
        """The entries of a slice in the order they were added."""

    def clear(self, journal: JournalName, slice_: int, living: Collection[int]) -> None:
        """Forgets a slice of a journal, and none of the ``living`` ones."""

    def wake_at(self, watermark_ms: int) -> None:
        """Asks for ``on_watermark`` once the watermark reaches a time; asking twice is asking once."""


class EntryKind(IntEnum):
    """What a journal entry holds."""

    FEATURE = 0
    #: an action whose feature event had come
    ACTION = 1
    #: an action that waits
    WAITING = 2


def pack_entry(kind: EntryKind, ingest_ms: int, record: bytes) -> bytes:
    """A journal entry: kind, ingest time and the record as received."""
    return _ENTRY.pack(kind, ingest_ms, len(record)) + record


def unpack_entry(entry: bytes) -> tuple[EntryKind, int, bytes]:
    """Reads back :func:`pack_entry`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        kind, ingest_ms, length = _ENTRY.unpack_from(entry)
        record = entry[_ENTRY.size :]
        if len(record) != length:
            raise ValueError(f"{len(record)} bytes of {length}")
        return EntryKind(kind), ingest_ms, record
    except (struct.error, ValueError) as error:
        raise JoinerError(f"a journal entry in the checkpointed state is damaged: {error}") from error


@dataclass(slots=True)
class BucketHeader:
    """How far a bucket is closed and which of its slices live.

    ``written_by`` identifies what gives the numbers their meaning: feature spec, slice length, buckets.
    """

    written_by: int
    closed_ms: int = NEVER_MS
    #: slices up to this one were closed by a drain, ahead of their time
    drained_slice: int = NEVER_MS
    slices: set[int] = field(default_factory=set)
    waiting_slices: set[int] = field(default_factory=set)

    def to_bytes(self) -> bytes:
        """The saved form."""
        numbers = sorted(self.slices) + sorted(self.waiting_slices)
        head = _HEADER.pack(
            self.written_by, self.closed_ms, self.drained_slice, len(self.slices), len(self.waiting_slices)
        )
        return head + struct.pack(f"<{len(numbers)}q", *numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> BucketHeader:
        """Reads back :meth:`to_bytes`."""
        written_by, closed_ms, drained_slice, features, waiting = _HEADER.unpack_from(data)
        numbers = struct.unpack_from(f"<{features + waiting}q", data, _HEADER.size)
        return cls(written_by, closed_ms, drained_slice, set(numbers[:features]), set(numbers[features:]))

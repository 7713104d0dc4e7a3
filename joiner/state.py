"""What the joiner keeps in the engine's checkpointed state, bucket by bucket.

The state is the truth; memory and local disk are rebuilt from it. Each bucket has a small header (how far
it is closed, which slices are alive) and, for each slice, two lists of entries: the feature events with the
pairs that became positive, and the actions that wait for their feature event, with the requests whose feature event
has come since. A list is appended to and
cleared as a whole.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

from rillet.joiner.errors import JoinerError

#: the two lists of a slice
ListName = Literal["features", "waiting"]

_ENTRY = struct.Struct("<BqI")
_HEADER = struct.Struct("<QqqII")
_POSITIVES = struct.Struct("<Iq")
_WAITING = struct.Struct("<q")
#: nothing is closed yet
NEVER_MS = -(1 << 62)


class BucketState(Protocol):
    """One bucket's part of the checkpointed state; the engine's adapter implements it.

    ``tests/contracts/test_bucket_state.py`` is the suite that every implementation has to pass.
    """

    def load_header(self) -> bytes | None:
        """The header last saved, None for a bucket never seen."""

    def save_header(self, header: bytes) -> None:
        """Replaces the header."""

    def append(self, name: ListName, slice_: int, entry: bytes) -> None:
        """Adds an entry to a list of a slice."""

    def read(self, name: ListName, slice_: int) -> Iterable[bytes]:
        """The entries of a list of a slice in the order in which they were added."""

    def clear(self, name: ListName, slice_: int, alive: Collection[int]) -> None:
        """Forgets a list of a slice. ``alive`` are the slices whose lists of that name must stay."""

    def wake_at(self, watermark_ms: int) -> None:
        """Asks for ``on_watermark`` once the watermark reaches a time; asking twice is asking once."""


class EntryKind(IntEnum):
    """What an entry of a list holds."""

    #: a feature event
    FEATURE = 0
    #: which pairs of a request are positive after an action, and the action's times
    POSITIVES = 1
    #: an action that waits for its feature event
    WAITING = 2
    #: the feature event of a request has come: the actions on it that stand before this entry wait no longer
    ARRIVED = 3


def pack_entry(kind: EntryKind, ingest_ms: int, body: bytes) -> bytes:
    """An entry: kind, ingest time, body."""
    return _ENTRY.pack(kind, ingest_ms, len(body)) + body


def unpack_entry(entry: bytes) -> tuple[EntryKind, int, bytes]:
    """Reads back :func:`pack_entry`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        kind, ingest_ms, length = _ENTRY.unpack_from(entry)
        body = entry[_ENTRY.size :]
        if len(body) != length:
            raise ValueError(f"{len(body)} bytes of {length}")
        return EntryKind(kind), ingest_ms, body
    except (struct.error, ValueError) as error:
        raise JoinerError(f"an entry in the checkpointed state is damaged: {error}") from error


def pack_positives_entry(request_id: str, positives: bytes, action_time_ms: int) -> bytes:
    """The body of a POSITIVES entry; the entry's ingest time is the action's."""
    return _POSITIVES.pack(len(positives), action_time_ms) + positives + request_id.encode()


def unpack_positives_entry(body: bytes) -> tuple[str, int, int]:
    """Request id, bit set and action time; reads back :func:`pack_positives_entry`."""
    length, action_time_ms = _POSITIVES.unpack_from(body)
    end = _POSITIVES.size + length
    return body[end:].decode(), int.from_bytes(body[_POSITIVES.size : end], "little"), action_time_ms


def pack_waiting_entry(number: int, record: bytes) -> bytes:
    """The body of a WAITING entry.

    :param number: grows with arrival. Waiting actions lie in the slice of their event time, and without it a
        restart would bring them back in another order than they came.
    """
    return _WAITING.pack(number) + record


def unpack_waiting_entry(body: bytes) -> tuple[int, bytes]:
    """Number and record; reads back :func:`pack_waiting_entry`."""
    return _WAITING.unpack_from(body)[0], body[_WAITING.size :]


@dataclass(slots=True)
class BucketHeader:
    """How far a bucket is closed and which of its slices are alive.

    ``settings_digest`` stands for the settings that the state depends on: feature spec, slice length, buckets, and
    how long slices and waiting actions are kept.
    """

    settings_digest: int
    closed_ms: int = NEVER_MS
    #: slices up to this one were closed by a drain, ahead of their time
    drained_slice: int = NEVER_MS
    slices: set[int] = field(default_factory=set)
    waiting_slices: set[int] = field(default_factory=set)

    def to_bytes(self) -> bytes:
        """The saved form."""
        numbers = sorted(self.slices) + sorted(self.waiting_slices)
        head = _HEADER.pack(
            self.settings_digest, self.closed_ms, self.drained_slice, len(self.slices), len(self.waiting_slices)
        )
        return head + struct.pack(f"<{len(numbers)}q", *numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> BucketHeader:
        """Reads back :meth:`to_bytes`."""
        settings_digest, closed_ms, drained_slice, features, waiting = _HEADER.unpack_from(data)
        numbers = struct.unpack_from(f"<{features + waiting}q", data, _HEADER.size)
        return cls(settings_digest, closed_ms, drained_slice, set(numbers[:features]), set(numbers[features:]))

"""What the joiner keeps in the engine's checkpointed state, bucket by bucket: a small header, and entries by key.

The state is the truth; memory and local disk are caches of it. Every entry is of one request or of one action, so none
grows with traffic, and none is read but by its key. The keys are text: a heap of Java finds no bytes by their content.

====================  ==================================================================================
``r/slice/n``         the n-th request of a slice, in order of arrival, from 0: feature event as it came
``p/request_id``      its place, slice and n, and which of its pairs are positive
``w/slot``            an action that has to wait for its request; slots are numbers from 0, used again when they are free
====================  ==================================================================================
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

from rillet.joiner.entry import pack_positives
from rillet.joiner.errors import JoinerError

_REQUEST = struct.Struct("<qI")
_PLACE = struct.Struct("<qII")
_WAITING = struct.Struct("<qqq")


class Place(NamedTuple):
    """Where a request lies in its bucket."""

    slice_: int
    #: its number in the slice, in order of arrival
    n: int


class BucketState(Protocol):
    """One bucket's part of the checkpointed state; the engine's adapter implements it.

    ``tests/contracts/test_bucket_state.py`` is the suite that every implementation has to pass.
    """

    def load_header(self) -> bytes | None:
        """The header last saved, None for a bucket never seen."""

    def save_header(self, header: bytes) -> None:
        """Replaces the header."""

    def get(self, key: str) -> bytes | None:
        """An entry, None where there is none."""

    def put(self, key: str, value: bytes) -> None:
        """Adds or replaces an entry."""

    def remove(self, key: str) -> None:
        """Forgets an entry."""

    def wake_at(self, watermark_ms: int) -> None:
        """Asks for the bucket's turn once the watermark reaches a time; asking twice is asking once."""


def request_key(slice_: int, n: int) -> str:
    """Key of a request."""
    return f"r/{slice_}/{n}"


def place_key(request_id: str) -> str:
    """Key of a request's place."""
    return "p/" + request_id


def waiting_key(slot: int) -> str:
    """Key of an action that waits."""
    return f"w/{slot}"


def pack_request(request_id: str, ingest_ms: int, record: bytes) -> bytes:
    """A request: when its feature event entered the topic, and the event. The id in front saves decoding to forget it."""
    name = request_id.encode()
    return _REQUEST.pack(ingest_ms, len(name)) + name + record


def unpack_request(value: bytes) -> tuple[str, int, bytes]:
    """Id, ingest time and record; reads back :func:`pack_request`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        ingest_ms, length = _REQUEST.unpack_from(value)
        end = _REQUEST.size + length
        return value[_REQUEST.size : end].decode(), ingest_ms, value[end:]
    except (struct.error, UnicodeDecodeError) as error:
        raise JoinerError(f"a request in the checkpointed state is damaged: {error}") from error


def pack_place(place: Place, positives: int, times: bytes) -> bytes:
    """A place, the positive pairs of its request as a bit set, and what :attr:`rillet.joiner.entry.Entry.times` keeps of them."""
    bits = pack_positives(positives)
    return _PLACE.pack(*place, len(bits)) + bits + times


def unpack_place(value: bytes) -> tuple[Place, int, bytes]:
    """Reads back :func:`pack_place`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        slice_, n, length = _PLACE.unpack_from(value)
    except struct.error as error:
        raise JoinerError(f"the place of a request in the checkpointed state is damaged: {error}") from error
    end = _PLACE.size + length
    return Place(slice_, n), int.from_bytes(value[_PLACE.size : end], "little"), value[end:]


def pack_waiting(arrival: int, slice_: int, ingest_ms: int, record: bytes) -> bytes:
    """An action that waits: its number in order of arrival, its slice, when it entered the topic, and the action."""
    return _WAITING.pack(arrival, slice_, ingest_ms) + record


def unpack_waiting(value: bytes) -> tuple[int, int, int, bytes]:
    """Arrival, slice, ingest time and record; reads back :func:`pack_waiting`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        return *_WAITING.unpack_from(value), value[_WAITING.size :]
    except struct.error as error:
        raise JoinerError(f"a waiting action in the checkpointed state is damaged: {error}") from error

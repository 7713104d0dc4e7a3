"""What the joiner keeps in the engine's checkpointed state, bucket by bucket: a small header, and entries by key.

The state is the truth; memory and local disk are caches of it. Every entry is of one request or of one action, so none
grows with traffic, and none is read but by its key. The keys are text: a heap of Java finds no bytes by their content.

====================  ==================================================================================
``r/slice/n``         the n-th request of a slice, in order of arrival, from 0: feature event as it came
``p/request_id``      its place, slice and n, which of its pairs are positive, and which have gathered actions
``g/slice/n/pair``    what a pair of it has gathered: actions that were not enough for a rule yet
``w/slot``            an action that has to wait for its request; slots are numbers from 0, used again when they are free
====================  ==================================================================================
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

from rillet.joiner.entry import pack_pairs
from rillet.joiner.errors import JoinerError

_REQUEST = struct.Struct("<qI")
_PLACE = struct.Struct("<qIII")
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


def gathered_key(slice_: int, n: int, pair: int) -> str:
    """Key of what a pair of a request has gathered; the pair is numbered as in :attr:`rillet.joiner.entry.Entry.gathering`."""
    return f"g/{slice_}/{n}/{pair}"


def is_gathered(key: str) -> bool:
    """Whether a key is one of :func:`gathered_key`."""
    return key.startswith("g/")


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


class Labels(NamedTuple):
    """What :class:`rillet.joiner.entry.Entry` says of the pairs of a request, by the names that it has there."""

    positives: int
    gathering: int
    times: bytes


def pack_place(place: Place, labels: Labels) -> bytes:
    """A place, and the labels of its request."""
    positives, gathering = pack_pairs(labels.positives), pack_pairs(labels.gathering)
    return _PLACE.pack(*place, len(positives), len(gathering)) + positives + gathering + labels.times


def unpack_place(value: bytes) -> tuple[Place, Labels]:
    """Reads back :func:`pack_place`.

    :raises JoinerError: the entry is damaged.
    """
    try:
        slice_, n, positives, gathering = _PLACE.unpack_from(value)
    except struct.error as error:
        raise JoinerError(f"the place of a request in the checkpointed state is damaged: {error}") from error
    first = _PLACE.size + positives
    end = first + gathering
    labels = Labels(
        int.from_bytes(value[_PLACE.size : first], "little"), int.from_bytes(value[first:end], "little"), value[end:]
    )
    return Place(slice_, n), labels


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

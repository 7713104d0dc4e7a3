"""Dead letters: records that could not be used, with the reason and where they came from, as JSON.

JSON, because people read them, with tools that know nothing of rillet. The record's own bytes are base64 inside.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rillet.schemas.errors import DecodeError
from rillet.schemas.records import NO_TIME_MS

FORMAT = "rillet-dead-letter/1"

#: a longer reason is cut
REASON_BYTES = 1_024
#: what a header takes in a letter beside the value and the name with its comma: brackets, quotes, padding
_HEADER_BYTES = 10


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused record, or one refused row of an example record.

    :param reason: why it could not be used.
    :param partition: of ``topic``, the topic that it was read from; ``offset`` in that partition.
    :param row: number of the refused row in the record, from 0; its letter holds a record of this row alone. None: the
        whole record was refused.
    :param key: None where it had none.
    :param value: its first bytes, None where it had none.
    :param value_bytes: full size of the value.
    :param headers: None where whoever refused the record did not see them.
    :param more_headers: whether the record had headers that are not among ``headers``, because whoever refused it saw
        only some.
    :param timestamp_ms: of the record, epoch milliseconds, -1 where unknown.
    :param refused_ms: when it was refused, epoch milliseconds.
    :param cut: whether a part of the record was too large to be kept.
    """

    reason: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    value_bytes: int
    refused_ms: int
    timestamp_ms: int = NO_TIME_MS
    headers: tuple[tuple[str, bytes | None], ...] | None = None
    more_headers: bool = False
    cut: bool = False
    row: int | None = None

    @property
    def place(self) -> str:
        """Where the record is, as messages name it."""
        row = "" if self.row is None else f", row {self.row}"
        return f"topic {self.topic}, partition {self.partition}, offset {self.offset}{row}"

    @property
    def letter_key(self) -> bytes:
        """Key of the letter itself on a topic: one record's letters share it."""
        return f"{self.topic}|{self.partition}|{self.offset}".encode()


def dead_letter(
    reason: str,
    topic: str,
    partition: int,
    offset: int,
    *,
    key: bytes | None,
    value: bytes | None,
    now_ms: int,
    max_bytes: int,
    timestamp_ms: int = NO_TIME_MS,
    headers: Sequence[tuple[str, bytes | None]] | None = None,
    more_headers: bool = False,
    row: int | None = None,
) -> DeadLetter:
    """A letter that keeps at most ``max_bytes`` of key, headers and value together, and says if that was not all.

    Key and headers are kept whole or not at all, the value as far as there is room. A long reason is cut: it may
    quote the record. Encoded, a letter has at most 4/3 of ``max_bytes``, and some kilobytes.
    """
    room, cut = max_bytes, False
    if key is not None:
        if len(key) > room:
            key, cut = None, True
        else:
            room -= len(key)
    if headers is not None:
        # A name stands in the letter as JSON, where a character may take six bytes.
        size = len(json.dumps([name for name, _ in headers]))
        size += sum(len(data or b"") + _HEADER_BYTES for _, data in headers)
        if size > room:
            headers, cut = None, True
        else:
            room -= size
    value_bytes = 0 if value is None else len(value)
    if value is not None and value_bytes > room:
        value, cut = value[:room], True
    kept = None if headers is None else tuple((name, data) for name, data in headers)
    return DeadLetter(
        reason=_shortened(reason),
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        value_bytes=value_bytes,
        refused_ms=now_ms,
        timestamp_ms=timestamp_ms,
        headers=kept,
        more_headers=more_headers,
        cut=cut,
        row=row,
    )


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """JSON on one line."""
    headers = letter.headers
    document = {
        "format": FORMAT,
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "row": letter.row,
        "timestamp_ms": letter.timestamp_ms,
        "refused_ms": letter.refused_ms,
        "value_bytes": letter.value_bytes,
        "more_headers": letter.more_headers,
        "cut": letter.cut,
        "key_base64": _base64(letter.key),
        "headers_base64": None if headers is None else [[name, _base64(data)] for name, data in headers],
        "value_base64": _base64(letter.value),
    }
    return json.dumps(document).encode()


def decode_dead_letter(data: bytes) -> DeadLetter:
    """The inverse of :func:`encode_dead_letter`.

    :raises DecodeError: not JSON, another format, or a field is missing or of another type.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"dead letter: is no JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise DecodeError(f"dead letter: format is {found!r}, expected {FORMAT!r}")
    try:
        headers = raw["headers_base64"]
        return DeadLetter(
            reason=_typed(raw, "reason", str),
            topic=_typed(raw, "topic", str),
            partition=_typed(raw, "partition", int),
            offset=_typed(raw, "offset", int),
            key=_bytes(raw["key_base64"]),
            value=_bytes(raw["value_base64"]),
            value_bytes=_typed(raw, "value_bytes", int),
            refused_ms=_typed(raw, "refused_ms", int),
            timestamp_ms=_typed(raw, "timestamp_ms", int),
            headers=None if headers is None else tuple((str(name), _bytes(value)) for name, value in headers),
            more_headers=_typed(raw, "more_headers", bool),
            cut=_typed(raw, "cut", bool),
            row=None if raw["row"] is None else _typed(raw, "row", int),
        )
    except KeyError as error:
        raise DecodeError(f"dead letter: {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise DecodeError(f"dead letter: {error}") from error


def _shortened(reason: str) -> str:
    if len(reason) <= REASON_BYTES and len(reason.encode(errors="replace")) <= REASON_BYTES:
        return reason
    kept = reason[:REASON_BYTES].encode(errors="replace")[: REASON_BYTES - 3]
    return kept.decode(errors="ignore") + "..."


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _typed(raw: dict[str, Any], name: str, kind: type) -> Any:
    value = raw[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value

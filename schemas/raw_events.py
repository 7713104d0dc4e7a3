"""What makes a record of the two raw topics usable (``docs/join.md``, rule 3), for whoever reads them.

The audit has its own reading of the rule, to have something to compare with.
"""

from __future__ import annotations

import re

from rillet.schemas.codec import decode
from rillet.schemas.errors import RecordError
from rillet.schemas.records import MAX_TIME_MS, NO_TIME_MS, ActionEvent, FeatureEvent
from rillet.schemas.spec import FeatureSpec

#: how far an event time may be ahead of the wall clock at ingestion, unless ``[joiner] max_ahead_ms`` says otherwise
MAX_AHEAD_MS = 86_400_000

_QUOTED = 80
_DECIMAL = re.compile(rb"[0-9]+")
_MAX_DIGITS = len(str(MAX_TIME_MS))


def quoted(found: str | bytes) -> str:
    """Text of a stranger, for a message: its first characters, and how long it was where that is not all."""
    if len(found) <= _QUOTED:
        return repr(found)
    unit = "characters" if isinstance(found, str) else "bytes"
    return f"{found[:_QUOTED]!r}... ({len(found)} {unit})"


def parse_ingest_ms(header: bytes | None) -> int:
    """The time in an ``ingest_ms`` header, decimal digits alone; :data:`NO_TIME_MS` without a header.

    :raises RecordError: anything but digits, or no time from 1970 to 2105.
    """
    if header is None:
        return NO_TIME_MS
    if not _DECIMAL.fullmatch(header):
        raise RecordError(f"header ingest_ms: {quoted(header)} is no decimal number of milliseconds")
    digits = header.lstrip(b"0")
    # The length first: a number of any length would take any time to read.
    if len(digits) > _MAX_DIGITS or int(digits or b"0") >= MAX_TIME_MS:
        raise RecordError(f"header ingest_ms: {quoted(header)} is after 2105")
    return int(digits or b"0")


def decode_event(data: bytes | None, key: bytes | None) -> FeatureEvent | ActionEvent:
    """The event in a record of either raw topic.

    :param data: the record's value in single-object encoding.
    :param key: of the record; has to be the request_id.
    :raises RecordError: no feature and no action event, or another key.
    """
    if key is None:
        raise RecordError("key: there is none; features and actions are joined by request_id")
    event = decode(data or b"")
    if not isinstance(event, FeatureEvent | ActionEvent):
        raise RecordError(f"a {type(event).__name__} is neither a feature nor an action event")
    if key != event.request_id.encode():
        # Another key is another bucket: the action would never meet its impression, and count as none.
        raise RecordError(f"key: {quoted(key)} is not the request_id {quoted(event.request_id)}")
    return event


def check_event(spec: FeatureSpec, event: FeatureEvent | ActionEvent, ingest_ms: int, max_ahead_ms: int) -> None:
    """Whether an event fits the spec and its times are possible.

    :param ingest_ms: wall clock when it entered the topic, -1 unknown.
    :raises RecordError: it does not, or they are not.
    """
    if not NO_TIME_MS <= ingest_ms < MAX_TIME_MS:
        raise RecordError(f"ingest_ms: {ingest_ms} is before 1970 or after 2105")
    if isinstance(event, FeatureEvent):
        spec.check_feature(event)
    else:
        spec.check_action(event)
    if ingest_ms != NO_TIME_MS and event.event_time_ms > ingest_ms + max_ahead_ms:
        raise RecordError(
            f"event_time_ms: {event.event_time_ms} is more than max_ahead_ms after its ingestion at {ingest_ms}"
        )

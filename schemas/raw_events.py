"""What makes a record of the two raw topics usable (``docs/join.md``, rule 3), for whoever reads them.

The audit has its own reading of the rule, to have something to compare with.
"""

from __future__ import annotations

import re

from rillet.schemas.codec import decode
from rillet.schemas.errors import FutureTimeError, RecordError
from rillet.schemas.records import MAX_TIME_MS, NO_TIME_MS, ActionEvent, FeatureEvent
from rillet.schemas.spec import FeatureSpec

#: how far an event time may lie after its record entered the topic, unless ``[joiner] max_ahead_ms`` says otherwise; the
#: same hour by which brokers refuse timestamps (``message.timestamp.after.max.ms``)
MAX_AHEAD_MS = 3_600_000

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


def entry_time_ms(ingest_ms: int, timestamp_ms: int, now_ms: int = MAX_TIME_MS) -> int:
    """When a record entered its topic, epoch milliseconds: its ``ingest_ms``, or else its timestamp.

    Without the header the timestamp is the event time itself, or the broker's on a topic of ``LogAppendTime``. Nothing has
    entered after the clock of who reads it.

    :param ingest_ms: -1 where there is no header.
    :param timestamp_ms: of the record, -1 unknown.
    :param now_ms: wall clock of the reader.

    >>> entry_time_ms(1_000, 5_000), entry_time_ms(-1, 5_000), entry_time_ms(-1, -1, 7_000), entry_time_ms(9_000, 5_000, 7_000)
    (1000, 5000, 7000, 7000)
    """
    known_ms = timestamp_ms if ingest_ms == NO_TIME_MS else ingest_ms
    return now_ms if known_ms == NO_TIME_MS else min(known_ms, now_ms)


def check_event(spec: FeatureSpec, event: FeatureEvent | ActionEvent, entered_ms: int, max_ahead_ms: int) -> None:
    """Whether an event fits the spec and its times are possible.

    :param entered_ms: when its record entered the topic, -1 unknown; see :func:`entry_time_ms`.
    :raises FutureTimeError: the event time is too long after that.
    :raises RecordError: the event does not fit, or a time is before 1970 or after 2105.
    """
    if not NO_TIME_MS <= entered_ms <= MAX_TIME_MS:
        raise RecordError(f"ingest_ms: {entered_ms} is before 1970 or after 2105")
    if isinstance(event, FeatureEvent):
        spec.check_feature(event)
    else:
        spec.check_action(event)
    if entered_ms != NO_TIME_MS and event.event_time_ms > entered_ms + max_ahead_ms:
        ahead_s = (event.event_time_ms - entered_ms) / 1_000
        raise FutureTimeError(
            f"event_time_ms: {event.event_time_ms} is {ahead_s:,.0f} s after its record entered the topic at {entered_ms}, "
            f"[joiner] max_ahead_ms allows {max_ahead_ms / 1_000:,.0f} s: is the clock right that it was read from?"
        )

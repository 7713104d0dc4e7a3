"""Single values of a record: ids, times and text, taken as they are or refused with their place."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from rillet.schemas import MAX_TIME_MS, RecordError, TimeUnitError, token_values
from rillet.sources.config import TimeUnit
from rillet.sources.paths import shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: units per second
_PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
#: a time before this is taken for one of another unit where that gives a time after it: 2000-01-01
_PLAUSIBLE_MS = 946_684_800_000
#: beyond this a number is no time in any unit; arithmetic with larger ones may overflow
_MAX_NUMBER = 1e30


def id_text(value: Any, path: str) -> str:
    """An id as text: text that is not empty, or an integer.

    :raises RecordError: anything else.
    """
    if isinstance(value, str) and value:
        check_text(value, path)
        return value
    if type(value) is int or isinstance(value, UUID):
        return str(value)
    raise RecordError(f"{path}: {missing_or(value, 'is neither text nor an integer')}")


def check_text(value: str, path: str) -> None:
    """:raises RecordError: half of a surrogate pair, which JSON can say and UTF-8 cannot."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordError(f"{path}: {shown(value)} is no text of Unicode") from None


def impression_number(value: Any, path: str) -> int:
    """An impression's id: an integer of 64 bits as it is, text as the 48-bit hash that it has as a token.

    :raises RecordError: anything else.

    >>> impression_number(17, "id"), impression_number("a17", "id") == int(token_values(["a17"])[0])
    (17, True)
    """
    if type(value) is int:
        if not -(1 << 63) <= value < 1 << 63:
            raise RecordError(f"{path}: {shown(value)} has more than 64 bits")
        return value
    return int(token_values([id_text(value, path)])[0])


def time_ms(value: Any, unit: TimeUnit, path: str) -> int:
    """Epoch milliseconds of a time.

    An Avro timestamp with its logical type says what it is, whatever the unit.

    :raises RecordError: no time, or one that is certainly of another unit.
    """
    if isinstance(value, datetime):
        return _bounded(_of_datetime(value, path), path, shown(value))
    if unit == "iso8601":
        if not isinstance(value, str):
            raise RecordError(f"{path}: {missing_or(value, 'is no text of ISO 8601')}{_unit_hint(value, unit)}")
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise RecordError(f"{path}: {shown(value)} is no time of ISO 8601, such as 2025-11-22T00:06:40Z") from None
        return _bounded(_of_datetime(moment, path), path, shown(value))
    if type(value) is not int and not (type(value) is float and math.isfinite(value)):
        trouble = f"is no number of {unit}"
        if isinstance(value, str) and _is_iso(value):
            trouble += '; is time_unit "iso8601" meant?'
        raise RecordError(f"{path}: {missing_or(value, trouble)}")
    if abs(value) > _MAX_NUMBER:
        raise RecordError(f"{path}: {shown(value)} is before 1970 or after 2105")
    found = _of_number(value, unit)
    if not _PLAUSIBLE_MS <= found < MAX_TIME_MS and (hint := _unit_hint(value, unit)):
        when = f"is {_date(found)} in {unit}" if 0 <= found < MAX_TIME_MS else f"is before 1970 or after 2105 in {unit}"
        raise TimeUnitError(f"{path}: {shown(value)} {when}{hint}")
    return _bounded(found, path, shown(value))


def iso(ms: int) -> str:
    """A time of epoch milliseconds as people read it.

    >>> iso(1763770000250)
    '2025-11-22T00:06:40.250Z'
    """
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def missing_or(value: Any, trouble: str) -> str:
    """What a message says of a value: that it is missing, or what is wrong with it."""
    return "is missing or null" if value is None else f"{shown(value)} {trouble}"


def _of_number(value: int | float, unit: str) -> int:
    if isinstance(value, int):
        return value * 1000 // _PER_SECOND[unit]
    return round(value * 1000 / _PER_SECOND[unit])


def _of_datetime(moment: datetime, path: str) -> int:
    if moment.tzinfo is None:
        raise RecordError(f"{path}: {shown(moment.isoformat())} has no offset; end it with Z for UTC")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _bounded(ms: int, path: str, found: str) -> int:
    if not 0 <= ms < MAX_TIME_MS:
        raise RecordError(f"{path}: {found} is before 1970 or after 2105")
    return ms


def _unit_hint(value: Any, unit: str) -> str:
    """Which other unit makes a time of our age of a number."""
    if type(value) not in (int, float) or not abs(value) <= _MAX_NUMBER:
        return ""
    for other in _PER_SECOND:
        if other != unit and _PLAUSIBLE_MS <= _of_number(value, other) < MAX_TIME_MS:
            return f'; is time_unit "{other}" meant?'
    return ""


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _date(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).date().isoformat()

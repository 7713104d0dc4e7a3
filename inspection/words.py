"""Times, ages and durations as a person reads them; pure, the clock is an argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from rillet.schemas import NO_TIME_MS
from rillet.schemas.text import LIMIT, printable

Shown = TypeVar("Shown")

#: clocks of two machines differ by this much without either being wrong
_SAME_MS = 1_000
#: from how many seconds on a duration is told in a unit: a number below two of it says too little
_UNITS = ((2 * 86_400, 86_400, "d"), (2 * 3_600, 3_600, "h"), (120, 60, "min"))
#: windows so short that minutes do not tell them apart
_SECONDS_BELOW_MS = 600_000
_QUOTED = 160
_HEX_BYTES = 32


def iso(time_ms: int) -> str | None:
    """A time in UTC, with milliseconds; None where there is none, the bare number where it is no date.

    >>> iso(1_700_000_000_123), iso(-1), iso(10**18)
    ('2023-11-14T22:13:20.123Z', None, '1000000000000000000 ms')
    """
    if time_ms == NO_TIME_MS:
        return None
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def clock(time_ms: int, now_ms: int, window_ms: int | None = None) -> str:
    """Hour and minute in UTC, with the date where it is another day than now.

    :param window_ms: the windows that the time is told of; below ten minutes, seconds matter.

    >>> clock(1_700_000_000_000, 1_700_000_600_000), clock(1_700_000_000_000, 1_700_086_400_000)
    ('22:13Z', '2023-11-14T22:13Z')
    >>> clock(1_700_000_000_000, 1_700_000_600_000, 30_000)
    '22:13:20Z'
    """
    text = iso(time_ms) or "?"
    same_day = text[:10] == (iso(now_ms) or "")[:10]
    end = 19 if window_ms is not None and window_ms < _SECONDS_BELOW_MS else 16
    return f"{text[11 if same_day else 0 : end]}Z"


def duration(seconds: float) -> str:
    """A duration in the largest unit that leaves a number of two digits or so; "?" where it is not known.

    >>> [duration(s) for s in (0.004, 1.26, 59.6, 420, 7_300, 200_000, float("nan"), float("inf"))]
    ['4 ms', '1.3 s', '60 s', '7 min', '2 h', '2 d', '?', '?']
    """
    if not math.isfinite(seconds):
        return "?"
    for above, unit, name in _UNITS:
        if seconds >= above:
            return f"{seconds / unit:.0f} {name}"
    if seconds >= 10 or seconds == 0:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def age(time_ms: int, now_ms: int) -> str:
    """How long ago a time was; one after now is said to be in the future, since no age is negative.

    >>> age(7_000, 10_000), age(10_500, 10_000), age(86_410_000, 10_000)
    ('3.0 s ago', 'now', 'in the future by 24 h')
    """
    if time_ms == NO_TIME_MS:
        return "at an unknown time"
    past_ms = now_ms - time_ms
    if abs(past_ms) < _SAME_MS:
        return "now"
    return f"{duration(past_ms / 1000)} ago" if past_ms > 0 else f"in the future by {duration(-past_ms / 1000)}"


def beginning(data: bytes | None, *, full: bool = False) -> str | None:
    """The first of some bytes, as text where they are, else in hexadecimal digits; where it is not all, how much is left.

    :param full: all of them.

    >>> beginning(b'{"page": 7}'), beginning(bytes([0xC3, 1, 0, 255])), beginning(None)
    ('{"page": 7}', 'hex c30100ff', None)
    >>> beginning(bytes(40))
    'hex 0000000000000000000000000000000000000000000000000000000000000000... 8 bytes more, --full'
    """
    if data is None:
        return None
    # Of what is cut off, a character may be cut off at the end, and nowhere else.
    text = data.decode(errors="replace") if full else data[: 4 * _QUOTED].decode(errors="replace").rstrip("\ufffd")
    if "\ufffd" not in text and all(character.isprintable() or character in "\t\r\n" for character in text):
        if full:
            return text
        shown, left = " ".join(text[:_QUOTED].split()), len(data) - len(text[:_QUOTED].encode())
    elif full:
        return f"hex {data.hex()}"
    else:
        shown, left = f"hex {data[:_HEX_BYTES].hex()}", len(data) - _HEX_BYTES
    return f"{shown}... {left:,} bytes more, --full" if left > 0 else shown


def printable_texts(value: Shown, limit: int = LIMIT) -> Shown:
    """A value with all texts in it :func:`printable`: in lists, in dictionaries and their keys, in dataclasses."""
    found: Any = value
    if isinstance(found, str):
        found = printable(found, limit)
    elif isinstance(found, Mapping):
        found = {printable_texts(key, limit): printable_texts(inner, limit) for key, inner in found.items()}
    elif isinstance(found, list | tuple):
        found = type(found)(printable_texts(inner, limit) for inner in found)
    elif is_dataclass(found) and not isinstance(found, type):
        found = replace(found, **{one.name: printable_texts(getattr(found, one.name), limit) for one in fields(found)})
    shown: Shown = found
    return shown

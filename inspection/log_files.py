"""The last error in a log file, as far as a person wants to see it: one line, and when it was logged."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

from rillet.inspection.facts import LoggedError

#: of the end of a log that is looked through
_TAIL_BYTES = 512 << 10
_SHOWN = 240
#: `2026-11-22 03:29:32,120 rillet.jobs.train ERROR text`, and Flink's `... 03:29:32,120 ERROR org.apache... - text`
_LINE = re.compile(r"^(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)[,.](\d{3})\S* (?:\S+ )?(?:ERROR|CRITICAL)\s+(.*)$")
#: what a command that failed prints last
_COMMAND = re.compile(r"^rillet [a-z-]+: (.+)$")


def last_error(log: Path) -> LoggedError | None:
    """The last line of a log that tells of an error; None without one, or without a log that can be read.

    Times of lines are in the local time of whoever wrote them, which is ours.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if (error := _error_in(line)) is not None:
            return error
    return None


def _error_in(line: str) -> LoggedError | None:
    if line.startswith("{"):
        return _error_in_json(line)
    if (found := _LINE.match(line)) is not None:
        second, milliseconds, text = found.groups()
        whole_ms = _ms(second)
        return LoggedError(text[:_SHOWN], None if whole_ms is None else whole_ms + int(milliseconds))
    if (found := _COMMAND.match(line)) is not None:
        return LoggedError(found.group(1)[:_SHOWN], None)
    return None


def _error_in_json(line: str) -> LoggedError | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("level") not in ("ERROR", "CRITICAL"):
        return None
    return LoggedError(str(entry.get("message", ""))[:_SHOWN], _ms(str(entry.get("time"))))


def _ms(text: str) -> int | None:
    """A time in ISO 8601, local where it has no offset; None where it is none, since anybody may write into a log."""
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None

"""The last error in a log file, as far as a person wants to see it: one line, and when it was logged."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
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
        local = datetime.fromisoformat(second).astimezone(UTC)
        return LoggedError(text[:_SHOWN], int(local.timestamp()) * 1000 + int(milliseconds))
    if (found := _COMMAND.match(line)) is not None:
        return LoggedError(found.group(1)[:_SHOWN], None)
    return None


def _error_in_json(line: str) -> LoggedError | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("level") not in ("ERROR", "CRITICAL"):
        return None
    try:
        time_ms = round(datetime.fromisoformat(str(entry.get("time"))).timestamp() * 1000)
    except ValueError:
        time_ms = None
    return LoggedError(str(entry.get("message", ""))[:_SHOWN], time_ms)

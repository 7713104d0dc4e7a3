"""The last error of a log: of our lines, of Flink's, of JSON lines, and what a command that failed prints last."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from rillet.inspection.log_files import last_error

LOCAL_MS = round(datetime(2026, 11, 22, 3, 29, 32).astimezone().timestamp() * 1000) + 120
TEXT = "the store cannot be written"


@pytest.mark.parametrize(
    ("line", "time_ms"),
    [
        (f"2026-11-22 03:29:32,120 rillet.jobs.train ERROR {TEXT}", LOCAL_MS),
        (f"2026-11-22 03:29:32,120 ERROR {TEXT}", LOCAL_MS),
        (
            f'{{"time": "2026-11-22T03:29:32.120+00:00", "level": "ERROR", "logger": "a", "message": "{TEXT}"}}',
            1795318172120,
        ),
        (f"rillet train: {TEXT}", None),
    ],
)
def test_the_last_error_is_found_whatever_the_form_of_the_log(tmp_path: Path, line: str, time_ms: int | None) -> None:
    log = tmp_path / "train.log"
    log.write_text(
        f"2026-11-22 03:00:00,000 a ERROR an older one\n{line}\n2026-11-22 03:29:33,000 a INFO ERROR is no level here\n"
    )
    found = last_error(log)
    assert found is not None
    assert (found.text, found.time_ms) == (TEXT, time_ms)


def test_a_log_without_errors_and_no_log_have_none(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"2026-11-22 03:29:33,000 a INFO fine\n{no json\n\xff\xfe\n")
    assert last_error(log) is None
    assert last_error(tmp_path / "none.log") is None


@pytest.mark.parametrize(
    "line",
    [
        f"2026-13-01 10:00:00,000 a ERROR {TEXT}",
        f"0001-01-01 00:00:00,000 a ERROR {TEXT}",
        f'{{"time": "0001-01-01T00:00:00", "level": "ERROR", "message": "{TEXT}"}}',
    ],
)
def test_an_error_at_no_time_that_exists_is_shown_without_one(tmp_path: Path, line: str) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"{line}\n" + '{"a":' + "[" * 100_000 + "\n")
    found = last_error(log)
    assert found is not None
    assert found.text == TEXT

"""Which processes live."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rillet.jobs.processes import start_time


def test_a_process_that_ends_while_it_is_asked_for_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file opens, and can no longer be read."""
    with subprocess.Popen(["sleep", "60"]) as process, Path(f"/proc/{process.pid}/stat").open() as opened:
        assert start_time(process.pid) is not None
        process.kill()
        process.wait()
        monkeypatch.setattr(Path, "read_text", lambda _: opened.read())
        assert start_time(process.pid) is None

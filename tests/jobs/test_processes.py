"""Which processes live, and with whom they end."""

from __future__ import annotations

import subprocess
import sys
import time
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


#: prints the id of a process of a pool that waits for work
_POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from rillet.jobs.processes import end_with_parent
pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(60)
"""


def test_a_process_of_a_pool_ends_with_one_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _POOL], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    deadline_s = time.monotonic() + 10
    while start_time(pid) is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)

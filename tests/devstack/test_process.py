from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from rillet.devstack.process import Process
from rillet.jobs.errors import ServiceError

STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_a_process_is_found_again_by_another_owner_and_stopped_by_its_pid(tmp_path: Path) -> None:
    pid = Process("sleeper", tmp_path).start([sys.executable, "-c", "import time; time.sleep(60)"])
    again = Process("sleeper", tmp_path)
    assert again.pid == pid
    assert again.stop() is True
    assert again.pid is None
    assert again.stop() is False
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starting_twice_is_refused(tmp_path: Path) -> None:
    process = Process("sleeper", tmp_path)
    process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(ServiceError, match="runs already"):
        process.start([sys.executable, "-c", ""])
    process.stop()


def test_a_pid_that_now_belongs_to_another_program_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "old.pid").write_text(str(os.getpid()))
    (tmp_path / "old.started").write_text("1")
    assert Process("old", tmp_path).pid is None
    assert Process("old", tmp_path).stop() is False


def test_one_that_ignores_the_request_to_end_is_ended(tmp_path: Path) -> None:
    process = Process("stubborn", tmp_path)
    process.start([sys.executable, "-c", STUBBORN])
    process.wait_until(lambda: "up" in process.log.read_text(), 10)
    assert process.stop(timeout_s=0.2) is True
    assert process.pid is None


def test_one_that_dies_while_starting_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = Process("crashing", tmp_path)
    process.start([sys.executable, "-c", "raise SystemExit('no such model')"])
    with pytest.raises(ServiceError, match=r"crashing died while starting, see .*crashing\.log: no such model"):
        process.wait_until(lambda: False, 10)


def test_one_that_never_gets_ready_is_reported_after_the_timeout(tmp_path: Path) -> None:
    process = Process("slow", tmp_path)
    process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="slow is not ready after"):
        process.wait_until(lambda: False, 0.2)
    assert time.monotonic() - begun < 2
    process.stop()


def test_what_an_earlier_process_logged_are_not_the_last_words_of_this_one(tmp_path: Path) -> None:
    process = Process("again", tmp_path)
    process.log.write_text("told of the shutdown before\n")
    process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process.last_words() == "(it has logged nothing yet)"
    with process.log.open("a") as log:
        log.write("loading\n")
    assert process.last_words() == "loading"
    process.log.write_text("cut\n")
    assert process.last_words() == "cut"
    process.stop(kill=True)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="/no/such/java"):
        Process("ghost", tmp_path).start(["/no/such/java"])

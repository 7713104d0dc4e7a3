"""Whether a job that runs beside is ready, and why it failed."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest

from rillet.joiner import JoinerRun
from rillet.pipelines.errors import JobFailedError
from rillet.pipelines.job_watch import JobWatch


def test_ready_means_that_checkpoints_are_completed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now_s = 100.0
    client = MagicMock()
    client.get_job_execution_result.return_value.done.return_value = False
    run = JoinerRun(tmp_path)
    watch = JobWatch(client, run, 5_000, tmp_path / "flink.log", lambda: now_s)

    def complete(number: int) -> None:
        (run.checkpoint_dir / f"job/chk-{number}").mkdir(parents=True)
        (run.checkpoint_dir / f"job/chk-{number}/_metadata").touch()
        watch.tell()

    watch.tell()
    assert (watch.ready(), watch.running()) == (False, False)
    now_s += 61
    for _ in range(2):
        watch.tell()
    assert caplog.text.count("no checkpoint has been completed since the start") == 1
    assert str(tmp_path / "flink.log") in caplog.text
    complete(9)
    assert (watch.ready(), watch.running()) == (True, True)
    now_s += 19
    complete(10)
    now_s += 20
    assert watch.ready()
    now_s += 1
    for _ in range(2):
        watch.tell()
    assert (watch.ready(), watch.running()) == (False, True)
    assert caplog.text.count("no checkpoint has been completed for 20 s") == 1
    complete(11)
    assert watch.ready()
    assert caplog.text.count("checkpoints are completed again") == 1


def test_a_failure_is_told_with_its_innermost_cause_unless_it_was_asked_for(tmp_path: Path) -> None:
    client = MagicMock()
    trace = "An error occurred\njava.lang.Exception: outer\nCaused by: a.B: middle\nCaused by: c.D: inner\n\tat e"
    client.get_job_execution_result.return_value.result.side_effect = RuntimeError(trace)
    watch = JobWatch(client, JoinerRun(tmp_path), 5_000, tmp_path / "flink.log")
    with pytest.raises(JobFailedError, match=r"the joiner job failed: c\.D: inner$"):
        watch.raise_failure()
    watch.cancelled = True
    watch.raise_failure()

"""deploy/stop-joiner.sh stops the job of the last run, with its savepoint where the next start looks for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rillet.joiner import JoinerRuns

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "stop-joiner.sh"
OLD, NEW = "a" * 32, "b" * 32


@pytest.fixture
def runs(tmp_path: Path) -> JoinerRuns:
    """Of a first run, which has left a savepoint; and a ``flink`` that tells what it is called with."""
    flink = tmp_path / "bin" / "flink"
    flink.parent.mkdir()
    flink.write_text('#!/bin/sh\necho "$@"\n')
    flink.chmod(0o755)
    runs = JoinerRuns(tmp_path / "runs")
    first = runs.begin("")
    (first.checkpoint_dir / OLD / "chk-3").mkdir(parents=True)
    (first.checkpoint_dir / OLD / "chk-3" / "_metadata").touch()
    return runs


def stop(runs: JoinerRuns, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{runs.folder.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [str(SCRIPT), str(runs.folder), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_the_last_run_is_stopped_and_its_savepoint_lies_where_the_next_start_looks(runs: JoinerRuns) -> None:
    run = runs.begin("")
    (run.checkpoint_dir / NEW).mkdir(parents=True)
    assert stop(runs).stdout == f"stop --savepointPath {run.savepoint_dir(drained=False)} {NEW}\n"
    assert stop(runs, "--drain").stdout == f"stop --drain --savepointPath {run.savepoint_dir(drained=True)} {NEW}\n"


def test_without_a_job_nothing_is_stopped(runs: JoinerRuns) -> None:
    run = runs.begin("")
    not_begun = stop(runs)
    assert (not_begun.returncode, not_begun.stdout) == (2, "")
    assert str(run.folder) in not_begun.stderr
    none = stop(JoinerRuns(runs.folder.parent / "other"))
    assert (none.returncode, "no joiner was started" in none.stderr) == (2, True)


def test_options_that_it_does_not_know_are_refused(runs: JoinerRuns) -> None:
    (runs.begin("").checkpoint_dir / NEW).mkdir(parents=True)
    asked = stop(runs, "--drian")
    assert (asked.returncode, asked.stdout) == (2, "")

"""The scripts in deploy: the joiner is submitted once, and stopped with its savepoint where the next start looks for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rillet.joiner import JoinerRuns
from rillet.operators.job_settings import job_name
from tests.joiner.snapshots import complete

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OLD, NEW = "a" * 32, "b" * 32


@pytest.fixture
def runs(tmp_path: Path) -> JoinerRuns:
    """Of a first run, which has left a checkpoint; and a ``flink`` that has a job and tells what it is called with."""
    answer(
        tmp_path, f'if [ "$1" = list ]; then echo "22.11.2026 : {NEW} : rillet joiner (RUNNING)"; else echo "$@"; fi'
    )
    runs = JoinerRuns(tmp_path / "runs")
    first = runs.begin("")
    (first.checkpoint_dir / OLD / "chk-3").mkdir(parents=True)
    (first.checkpoint_dir / OLD / "chk-3" / "_metadata").touch()
    return runs


def answer(folder: Path, what: str) -> None:
    """Has ``flink`` do this."""
    flink = folder / "bin" / "flink"
    flink.parent.mkdir(exist_ok=True)
    flink.write_text(f"#!/bin/sh\n{what}\n")
    flink.chmod(0o755)


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [str(DEPLOY / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def stop(runs: JoinerRuns, *options: str) -> subprocess.CompletedProcess[str]:
    return run(runs.folder.parent, "stop-joiner.sh", str(runs.folder), *options)


def test_a_joiner_is_submitted_only_where_the_cluster_says_that_none_runs(tmp_path: Path) -> None:
    def submit() -> tuple[int, bool]:
        done = run(tmp_path, "submit-joiner.sh", "rillet.toml", "runs")
        return done.returncode, "run --detached" in done.stdout

    def there(name: str, state: str = "RUNNING") -> str:
        return f'echo "$@"; echo "22.11.2026 13:00:00 : {OLD} : {name} ({state})"'

    answer(tmp_path, 'echo "$@"')
    assert submit() == (0, True)
    # Of this folder; or of one that is not known.
    for name in (job_name(Path.cwd() / "runs"), job_name()):
        answer(tmp_path, there(name))
        assert submit() == (0, False)
    # Of other folders.
    for other in ("runs2", "other/runs", "runs/more"):
        answer(tmp_path, there(job_name(Path.cwd() / other)))
        assert submit() == (0, True)
    # It waits for TaskManagers.
    answer(tmp_path, f'[ "$*" = "list --running" ] || {there(job_name(Path.cwd() / "runs"), "CREATED")}')
    assert submit() == (0, False)
    # No JobManager leads at the moment. The next one recovers the joiner, beside which a second one would write every row again.
    answer(tmp_path, '[ "$1" != list ] || exit 1; echo "$@"')
    assert submit() == (1, False)


def test_the_last_run_is_stopped_and_its_savepoint_lies_where_the_next_start_looks(runs: JoinerRuns) -> None:
    last = runs.begin("")
    (last.checkpoint_dir / NEW).mkdir(parents=True)
    # Copies, which are no runs of the joiner.
    for copy in ("000002_old", "000003.backup"):
        (runs.folder / copy / "checkpoints" / OLD).mkdir(parents=True)
    assert stop(runs).stdout == f"stop --savepointPath {last.savepoint_dir(drained=False)} {NEW}\n"
    assert stop(runs, "--drain").stdout == f"stop --drain --savepointPath {last.savepoint_dir(drained=True)} {NEW}\n"


def test_without_a_job_nothing_is_stopped(runs: JoinerRuns) -> None:
    last = runs.begin("")
    not_begun = stop(runs)
    assert (not_begun.returncode, not_begun.stdout) == (2, "")
    assert str(last.folder) in not_begun.stderr
    none = stop(JoinerRuns(runs.folder.parent / "other"))
    assert (none.returncode, "no joiner was started" in none.stderr) == (2, True)


def test_the_path_of_a_savepoint_is_whole_wherever_the_script_is_called(
    runs: JoinerRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JobManager would look for another one from the folder that it was started in."""
    last = runs.begin("")
    (last.checkpoint_dir / NEW).mkdir(parents=True)
    monkeypatch.chdir(runs.folder.parent)
    stopped = run(runs.folder.parent, "stop-joiner.sh", runs.folder.name)
    assert stopped.stdout == f"stop --savepointPath {last.savepoint_dir(drained=False)} {NEW}\n"


@pytest.mark.parametrize("deleted", [False, True], ids=["checkpoints there", "checkpoints deleted"])
def test_what_is_stopped_is_not_stopped_again_and_is_not_said_to_be_drained(runs: JoinerRuns, deleted: bool) -> None:
    last = runs.begin("")
    if not deleted:
        (last.checkpoint_dir / OLD).mkdir(parents=True)
        gone = stop(runs)
        assert (gone.returncode, gone.stdout) == (2, "")
        assert f"job {OLD} of this run is not on the cluster" in gone.stderr
    savepoint = last.savepoint_dir(drained=False) / "savepoint-1"
    complete(savepoint)
    again = stop(runs)
    assert (again.returncode, again.stdout) == (0, f"stopped already, with savepoint {savepoint}\n")
    assert stop(runs, "--drain").returncode == 2


def test_options_that_it_does_not_know_are_refused(runs: JoinerRuns) -> None:
    (runs.begin("").checkpoint_dir / NEW).mkdir(parents=True)
    asked = stop(runs, "--drian")
    assert (asked.returncode, asked.stdout) == (2, "")

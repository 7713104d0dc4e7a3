"""Which state a start of the joiner goes on from: a crash at any step before it neither doubles nor loses rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rillet.joiner import JoinerError, JoinerRun, JoinerRuns
from tests.joiner.snapshots import complete

JOB = "ab" * 16


def checkpoint(run: JoinerRun, number: int) -> Path:
    return complete(run.checkpoint_dir / JOB / f"chk-{number}", number)


def savepoint(run: JoinerRun, number: int = 1_000, *, drained: bool = False) -> Path:
    return complete(run.savepoint_dir(drained=drained) / f"savepoint-ababab-{number:012}", number)


def gone_on_from(runs: JoinerRuns) -> Path | None:
    return runs.newest.snapshot if runs.newest is not None else None


@pytest.fixture
def runs(tmp_path: Path) -> JoinerRuns:
    return JoinerRuns(tmp_path / "runs")


def test_a_first_start_goes_on_from_nothing(runs: JoinerRuns) -> None:
    assert gone_on_from(runs) is None
    assert gone_on_from(JoinerRuns(runs.begin("").folder.parent)) is None


def test_the_first_checkpoint_of_a_run_is_gone_on_from_at_once(runs: JoinerRuns) -> None:
    stopped = savepoint(runs.begin("a"))
    second = runs.begin("b")
    assert gone_on_from(runs) == stopped  # nothing of the second run has gone out
    assert gone_on_from(runs) == stopped
    first = checkpoint(second, 1)  # its rows go out now; a crash in this moment finds nothing noted
    assert gone_on_from(runs) == first


def test_the_number_of_a_checkpoint_decides_and_not_the_clock(runs: JoinerRuns) -> None:
    run = runs.begin("")
    for number, time_s in ((9, 9_000), (10, 1_000)):
        os.utime(checkpoint(run, number) / "_metadata", (time_s, time_s))
    assert gone_on_from(runs) == run.checkpoint_dir / JOB / "chk-10"
    later = runs.begin("")
    os.utime(checkpoint(later, 3) / "_metadata", (5, 5))
    assert gone_on_from(runs) == later.checkpoint_dir / JOB / "chk-3"


def test_when_a_run_was_interrupted_is_known_and_one_that_was_stopped_was_not(runs: JoinerRuns) -> None:
    run = runs.begin("")
    assert run.interrupted_ms is None
    os.utime(checkpoint(run, 3) / "_metadata", (7, 7))
    assert run.interrupted_ms == 7_000
    savepoint(run)
    assert run.interrupted_ms is None


@pytest.mark.parametrize("drained", [False, True])
def test_a_snapshot_that_is_not_complete_is_none(runs: JoinerRuns, drained: bool) -> None:
    run = runs.begin("")
    before = checkpoint(run, 7)
    half = run.savepoint_dir(drained=drained) / "savepoint-ababab-000000000000"
    half.mkdir(parents=True)
    (half / "._metadata.inprogress.x").touch()
    (run.checkpoint_dir / JOB / "chk-8").mkdir()
    assert (gone_on_from(runs), run.drained) == (before, False)
    complete(half)
    assert (gone_on_from(runs), run.drained) == (half, drained)


def test_only_the_state_that_is_gone_on_from_takes_disk_space(runs: JoinerRuns) -> None:
    first, failed = runs.begin("1"), runs.begin("2")
    assert not first.folder.exists()
    savepoint(failed)
    stopped = runs.begin("3")
    checkpoint(stopped, 1)
    empty, now = runs.begin("4"), runs.begin("5")
    assert sorted(runs.folder.iterdir()) == [stopped.folder, now.folder]
    assert not empty.folder.exists()
    assert (now.folder.name, now.note.read_text()) == ("000005", "5")


def test_as_many_earlier_runs_stay_as_are_kept_and_those_without_state_do_not_count(runs: JoinerRuns) -> None:
    names = []
    for number in range(1, 7):
        run = runs.begin(str(number), keep=2)
        if number != 5:
            names.append(savepoint(run).parent.parent)
    assert sorted(runs.folder.iterdir()) == [*names[-3:-1], runs.folder / "000006"]
    assert gone_on_from(runs) == next((runs.folder / "000006/stopped").iterdir())


def test_the_last_run_is_without_state_until_its_first_snapshot(runs: JoinerRuns) -> None:
    assert runs.without_state is None
    first = runs.begin("1")
    assert runs.without_state == first
    checkpoint(first, 1)
    assert runs.without_state is None
    second = runs.begin("2")
    assert runs.without_state == second


def test_a_savepoint_that_somebody_took_of_a_running_job_is_not_taken_for_its_end(runs: JoinerRuns) -> None:
    """`flink savepoint JOB` on a cluster puts it where `flink stop` puts the last one; rows that went out later would again."""
    run = runs.begin("")
    savepoint(run, 4)
    savepoint(run, 6)
    later = checkpoint(run, 7)
    assert (gone_on_from(runs), run.drained) == (later, False)
    stopped = savepoint(run, 8)
    assert gone_on_from(runs) == stopped


def test_a_savepoint_that_is_not_flinks_is_refused(runs: JoinerRuns) -> None:
    (savepoint(runs.begin("")) / "_metadata").write_bytes(b"a note of mine, longer than sixteen bytes")
    with pytest.raises(JoinerError, match="_metadata is not the beginning of a snapshot of Flink"):
        runs.newest  # noqa: B018


def test_other_files_are_no_runs(runs: JoinerRuns) -> None:
    complete(runs.folder / "mine" / "stopped" / "x")
    (runs.folder / "7").touch()
    assert gone_on_from(runs) is None
    assert runs.begin("").folder.name == "000001"
    assert (runs.folder / "mine").exists()

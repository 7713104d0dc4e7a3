"""The joiner in real Flink goes on after crashes and stops: nothing is lost, nothing is there twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.demo.joiner import joiner_lag
from rillet.devstack.cluster import FlinkCluster, start_cluster
from rillet.devstack.process import Process
from rillet.joiner import JoinerRuns
from rillet.recordings.format import Recording
from tests.jobs.joiner_runs import FLINK, REQUESTS, START_MS, JoinerRun, make_recording, make_run, wait_until
from tests.joiner.support import SPEC, feature, with_labels

pytestmark = pytest.mark.integration

_IDLE_MS = 5_000
#: rows that go out as their windows close
ALIGNED = with_labels(SPEC, "aligned")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return make_recording(tmp_path_factory.mktemp("recording") / "stream", ALIGNED)


@pytest.fixture
def made(broker: str, tmp_path: Path) -> JoinerRun:
    return make_run(tmp_path, broker, flink=replace(FLINK, idle_ms=_IDLE_MS), spec=ALIGNED)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FlinkCluster]:
    running = start_cluster(tmp_path / "flink")
    try:
        yield running
    finally:
        running.stop()


def _has_checkpoint(runs: JoinerRuns, number: int) -> bool:
    return bool(list((runs.folder / f"{number:06d}").rglob("chk-*/_metadata")))


def test_nothing_is_lost_or_doubled_when_a_task_manager_is_killed(
    cluster: FlinkCluster, made: JoinerRun, recording: Recording
) -> None:
    script = Path(__file__).parents[2] / "jobs" / "joiner_job.py"
    job = cluster.submit(script, ["--config", str(made.path)])
    # 200 s of events in about 20 s, so that the kill falls in the middle of the stream
    replaying = threading.Thread(target=made.replay, args=(recording, 10.0))
    replaying.start()
    wait_until(lambda: len(made.blocks()) > 200, 60)
    before = cluster.completed_checkpoints(job)
    cluster.task_manager(0).stop(kill=True)
    cluster.start_task_manager(1)
    replaying.join()
    wait_until(lambda: cluster.completed_checkpoints(job) > before + 1, 90)
    restarts = cluster.get(f"/jobs/{job}/exceptions") or {}
    assert restarts["exceptionHistory"]["entries"], "the kill was not noticed"
    # Every source is idle by then, and a drain closes all windows still.
    made.send([replace(feature(REQUESTS, START_MS + 300_000, impressions=5), spec_hash=ALIGNED.hash)])
    time.sleep((_IDLE_MS + 2 * FLINK.checkpoint_interval_ms) / 1_000 + 1)
    cluster.drain(job)
    wait_until(lambda: cluster.job_state(job) == "FINISHED", 60)
    made.audited(requests=REQUESTS + 1)


def test_a_local_joiner_goes_on_after_a_kill_and_after_a_clean_stop(
    made: JoinerRun, recording: Recording, tmp_path: Path
) -> None:
    process = Process("join", tmp_path)
    runs = JoinerRuns(made.path.parent / "data/joiner/runs")
    replaying = threading.Thread(target=made.replay, args=(recording, 10.0))
    process.start(made.command)
    try:
        # The stream is 20 s long, and Flink may take as long to start: so it begins when Flink has.
        wait_until(lambda: _has_checkpoint(runs, 1), 90)
        replaying.start()
        wait_until(lambda: len(made.blocks()) > 200, 60)
        process.stop(kill=True)
        process.start(made.command)
        wait_until(lambda: _has_checkpoint(runs, 2), 90)
        process.stop(timeout_s=60)
        assert runs.newest is not None
        assert runs.newest.folder.name == "000002"
        assert not runs.newest.checkpoints, "no savepoint of the clean stop"
        process.start([*made.command, "--drain"])
        replaying.join()
        # One that has not begun yet ends at once.
        wait_until(lambda: _has_checkpoint(runs, 3), 90)
        with joiner_lag(made.config) as lag:
            wait_until(lambda: lag.records() == 0, 60)
    finally:
        process.stop(timeout_s=150)
    made.audited()


def test_a_bounded_run_goes_on_where_the_last_one_ended_and_so_does_a_live_one(
    made: JoinerRun, recording: Recording, tmp_path: Path
) -> None:
    made.replay(recording)
    made.join("--until-latest")
    assert len(kept := made.blocks()) > 100
    # A savepoint goes with its data_dir, as to another machine.
    (made.path.parent / "data").rename(made.path.parent / "moved")
    made.path.write_text(made.path.read_text().replace('data_dir = "data"', 'data_dir = "moved"'))
    made.join("--until-latest")
    assert len(made.blocks()) == len(kept)
    # The state of the first run is still there, and would write the rows of the second again.
    [left] = (made.path.parent / "moved/joiner/runs/000002/stopped").iterdir()
    left.rename(elsewhere := tmp_path / left.name)
    refused = made.run_join()
    assert (refused.returncode, "its state is not here" in refused.stderr) == (2, True), refused.stderr
    elsewhere.rename(left)
    process = Process("join", tmp_path)
    process.start([*made.command, "--drain"])
    try:
        wait_until(lambda: _has_checkpoint(JoinerRuns(made.path.parent / "moved/joiner/runs"), 3), 90)
    finally:
        process.stop(timeout_s=150)
    made.audited()

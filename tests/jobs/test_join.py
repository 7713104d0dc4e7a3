"""What the joiner's service does around the Flink job: its probes end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import MagicMock

import pytest
from py4j.protocol import Py4JJavaError

from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.start_positions import StartAt
from rillet.devstack.process import free_port
from rillet.jobs import join, joiner_run
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.errors import PortInUseError, ServiceError
from rillet.jobs.joiner_job import groups
from rillet.joiner import JoinerError, JoinerRun
from rillet.operators.flink_config import joiner_name
from rillet.pipelines import bounded_read
from rillet.schemas import dump_spec
from tests.jobs.fake_job import RunningJob, set_unread, signal_at_once
from tests.joiner.snapshots import complete
from tests.joiner.support import SPEC

ROOT = Path(__file__).resolve().parents[2]


def test_the_probes_port_is_free_again_when_the_job_has_ended(joiner_config: RilletConfig) -> None:
    health = replace(joiner_config.health, join_port=free_port())
    with pytest.raises(ServiceError, match="failed"):
        join.run_join(replace(joiner_config, health=health))
    with socket.create_server(("127.0.0.1", health.join_port), reuse_port=False):
        pass


def test_a_port_that_is_taken_is_told_before_anything_is_written_or_begun(joiner_config: RilletConfig) -> None:
    """Mostly it is that of another joiner, whose groups must not be put back."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        health = replace(joiner_config.health, join_port=taken.getsockname()[1])
        with pytest.raises(PortInUseError, match="cannot be listened on"):
            join.run_join(replace(joiner_config, health=health))
    assert not (joiner_config.data_dir / "joiner/runs").exists()
    assert not sys.modules["rillet.jobs.joiner_job"].forget_progress.called  # type: ignore[attr-defined]


def test_a_run_of_which_the_state_was_moved_is_not_passed_over(
    joiner_config: RilletConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joiner_run, "check_left", MagicMock(side_effect=JoinerError("its state is not here")))
    with pytest.raises(JoinerError, match="its state is not here"):
        join.run_join(joiner_config)
    assert not (joiner_config.data_dir / "joiner/runs").exists()
    assert not sys.modules["rillet.jobs.joiner_job"].forget_progress.called  # type: ignore[attr-defined]


def test_a_bounded_run_that_is_interrupted_keeps_its_windows_and_says_that_it_is_not_done(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_once(monkeypatch)
    with pytest.raises(ServiceError, match=r"stopped before the end .* run the same again to go on"):
        join.run_join(joiner_config, until_latest=True, drain=True)
    assert stops == [False]
    set_unread(monkeypatch, [True])
    assert join.run_join(joiner_config, until_latest=True, drain=True) == 0
    assert stops == [False, True]


def test_a_bounded_run_outlives_a_broker_that_is_away(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_unread(monkeypatch, [BrokerUnavailableError("away"), False, True])
    assert join.run_join(joiner_config, until_latest=True) == 0
    assert stops == [False]


def test_a_live_drain_reads_on_to_the_ends_before_it_closes_windows(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_unread(monkeypatch, [False, True])
    signal_at_once(monkeypatch)
    assert join.run_join(joiner_config, drain=True) == 0
    assert stops == [False, True]


def test_a_drain_whose_topics_end_apart_reads_the_rest_of_the_later_one_without_alignment(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_unread(monkeypatch, [False, False, True])
    monkeypatch.setattr(bounded_read, "_HELD_BACK_S", 0.0)
    options = sys.modules["rillet.jobs.joiner_job"].JobOptions
    assert join.run_join(joiner_config, until_latest=True, drain=True) == 0
    assert stops == [False, True]
    assert [call.kwargs["aligned"] for call in options.call_args_list] == [True, False]
    # What is not drained waits until the topic that ended early is left out.
    set_unread(monkeypatch, [False, False, True])
    assert join.run_join(joiner_config, until_latest=True) == 0
    assert stops == [False, True, False]


def test_a_job_that_has_no_checkpoint_yet_is_watched_for_failures(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    watch = MagicMock(refresh_job=lambda: asked.append("job"), refresh=lambda: asked.append("counters"))
    monkeypatch.setattr(joiner_run, "JoinerWatch", lambda *_, **__: watch)
    monkeypatch.setattr(RunningJob, "running", lambda _: len(asked) > 1)
    set_unread(monkeypatch, [True])
    assert join.run_join(joiner_config, until_latest=True) == 0
    assert asked == ["job", "job", "counters"]


def test_a_folder_that_takes_no_state_is_refused_before_the_job_begins(joiner_config: RilletConfig) -> None:
    (joiner_config.data_dir / "joiner").mkdir()
    (joiner_config.data_dir / "joiner/runs").write_text("in the way")
    with pytest.raises(ServiceError, match="joiner cannot be written to"):
        join.run_join(joiner_config)


def test_a_stop_without_a_savepoint_says_what_the_next_start_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, client = JoinerRun(tmp_path), MagicMock()
    newest = run.checkpoint_dir / "job" / "chk-3"
    complete(newest, 3)
    failure = Py4JJavaError.__new__(Py4JJavaError)
    monkeypatch.setattr(Py4JJavaError, "__str__", lambda _: "Caused by: timed out")
    monkeypatch.setattr("pyflink.java_gateway.get_gateway", MagicMock())
    client._j_job_client.stopWithSavepoint.side_effect = failure
    with pytest.raises(ServiceError, match=f"timed out; the next start goes on from {newest}"):
        joiner_run._stop(client, RunningJob(), run, drain=False)  # type: ignore[arg-type]


def test_state_of_a_topic_that_was_made_anew_is_refused_before_anything_is_written(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_unread(monkeypatch, [True])
    join.run_join(joiner_config, until_latest=True)
    (run,) = (joiner_config.data_dir / "joiner/runs").iterdir()
    end = JoinerRun(run).savepoint_dir(drained=False) / "savepoint"
    complete(end)
    sys.modules["rillet.jobs.joiner_job"].ids_of_topics.return_value = {"features": "id1", "actions": "id9"}  # type: ignore[attr-defined]
    with pytest.raises(JoinerError, match="has id id9, that one had id2"):
        join.run_join(joiner_config)
    assert [*run.parent.iterdir()] == [run]


@pytest.mark.parametrize(("rows", "told"), [([], False), ([object()], True), (TopicError("there is none"), False)])
def test_a_joiner_without_state_that_finds_rows_says_that_another_may_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rows: object, told: bool
) -> None:
    config = replace(load_config(ROOT / "rillet.toml"), data_dir=tmp_path)
    side_effect = rows if isinstance(rows, Exception) else None
    monkeypatch.setattr(joiner_run, "newest_records", MagicMock(return_value=(rows, {}), side_effect=side_effect))
    joiner_run._warn_of_other_rows(config)
    assert ("Does another joiner write to this topic?" in caplog.text) is told


@pytest.mark.parametrize(
    ("parallelism", "mode", "told"), [(1, "thread", False), (2, "thread", True), (2, "process", False)]
)
def test_subtasks_that_share_an_interpreter_are_told_of(
    caplog: pytest.LogCaptureFixture, parallelism: int, mode: Literal["thread", "process"], told: bool
) -> None:
    config = load_config(ROOT / "rillet.toml")
    flink = replace(config.flink, parallelism=parallelism, execution_mode=mode)
    joiner_run._warn_of_shared_interpreter(replace(config, flink=flink))
    assert ('Set [flink] execution_mode to "process"' in caplog.text) is told


def test_where_reading_begins_is_for_a_first_start_alone(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_unread(monkeypatch, [True])
    start = StartAt(time_ms=5)
    assert join.run_join(joiner_config, until_latest=True, start=start) == 0
    assert sys.modules["rillet.jobs.joiner_job"].JobOptions.call_args.kwargs["start"] == start  # type: ignore[attr-defined]
    (run,) = (joiner_config.data_dir / "joiner/runs").iterdir()
    end = JoinerRun(run).savepoint_dir(drained=False) / "savepoint"
    complete(end)
    with pytest.raises(JoinerError, match="leave out --from"):
        join.run_join(joiner_config, until_latest=True, start=start)


def test_joiners_that_write_other_topics_share_no_group_and_no_transaction() -> None:
    config = load_config(ROOT / "rillet.toml")
    topics = replace(config.kafka.topics, examples="other.examples")
    other = replace(config, kafka=replace(config.kafka, topics=topics))
    assert set(groups(config)) == set(groups(other)), "of the same raw topics"
    assert not set(groups(config).values()) & set(groups(other).values())
    assert not joiner_name(topics.examples).startswith(joiner_name(config.kafka.topics.examples))


@pytest.mark.integration
def test_a_signal_ends_the_wait_for_a_broker(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(dump_spec(SPEC))
    path = tmp_path / "rillet.toml"
    path.write_text(f'spec = "spec.toml"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "127.0.0.1:{free_port()}"\n')
    command = [sys.executable, "-m", "rillet", "join", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as joiner:
        deadline = time.monotonic() + 30
        while not (tmp_path / "data/locks/join.lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        os.killpg(joiner.pid, signal.SIGTERM)
        assert joiner.wait(10) == 0
        assert joiner.stderr is not None
        assert "Traceback" not in joiner.stderr.read()

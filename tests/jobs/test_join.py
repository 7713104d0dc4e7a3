"""What the joiner's service does around the Flink job: its probes end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from py4j.protocol import Py4JJavaError

from rillet.connectors.errors import BrokerUnavailableError
from rillet.devstack.process import free_port
from rillet.jobs import join
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.data_lock import hold
from rillet.jobs.errors import ServiceError
from rillet.jobs.joiner_job import groups
from rillet.joiner import JoinerError, JoinerRun
from rillet.operators.flink_config import joiner_name
from rillet.pipelines import bounded_read
from rillet.schemas import dump_spec
from tests.joiner.support import SPEC

ROOT = Path(__file__).resolve().parents[2]


class _Watch:
    """A job that fails at once."""

    def __init__(self, *_: object) -> None:
        pass

    def running(self) -> bool:
        return True

    ready = running

    def finished(self, wait_s: float) -> bool:
        return True

    def raise_failure(self) -> None:
        raise ServiceError("the joiner job failed")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RilletConfig:
    """Of a joiner whose Flink is none, and whose job is a :class:`_Watch`."""
    config = load_config(ROOT / "rillet.toml")
    for name in (
        "create_topics",
        "topic_ends",
        "_prepare_process",
        "_mini_cluster",
        "_rest_url",
        "fetch_jars",
        "GroupLag",
    ):
        monkeypatch.setattr(join, name, MagicMock())
    monkeypatch.setattr(join, "_JobWatch", _Watch)
    monkeypatch.setattr(signal, "signal", MagicMock())
    job = MagicMock()
    job.ids_of_topics.return_value = {"features": "id1", "actions": "id2"}
    monkeypatch.setitem(sys.modules, "rillet.jobs.joiner_job", job)
    return replace(config, health=replace(config.health, join_port=0), data_dir=tmp_path)


def test_the_probes_port_is_free_again_when_the_job_has_ended(config: RilletConfig) -> None:
    health = replace(config.health, join_port=free_port())
    with pytest.raises(ServiceError, match="failed"):
        join.run_join(replace(config, health=health))
    with socket.create_server(("127.0.0.1", health.join_port), reuse_port=False):
        pass


def test_ready_means_that_checkpoints_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now_s = 100.0
    monkeypatch.setattr(join, "time", MagicMock(monotonic=lambda: now_s))
    client = MagicMock()
    client.get_job_execution_result.return_value.done.return_value = False
    run = JoinerRun(tmp_path)
    watch = join._JobWatch(client, run, 5_000, tmp_path / "flink.log")

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


class _Running(_Watch):
    """A job that runs until it is stopped."""

    cancelled = False

    def finished(self, wait_s: float) -> bool:
        return False

    def tell(self) -> None:
        pass

    def raise_failure(self) -> None:
        pass


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each of the jobs that end was drained."""
    stops: list[bool] = []
    monkeypatch.setattr(join, "_stop", lambda *_, drain: stops.append(drain))
    monkeypatch.setattr(join, "_JobWatch", _Running)
    monkeypatch.setattr(join, "_REFRESH_S", 0.0)
    return stops


def _lag(monkeypatch: pytest.MonkeyPatch, reached: Iterable[bool | Exception]) -> None:
    lag = MagicMock()
    entered = lag.return_value.__enter__.return_value
    entered.ends.return_value = {("features", 0): 9, ("actions", 0): 9}
    unread = {True: {}, False: {"actions": {0: 1}}}
    entered.unread.side_effect = (answer if isinstance(answer, Exception) else unread[answer] for answer in reached)
    monkeypatch.setattr(join, "GroupLag", lag)


def _signal_at_once(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    left = iter(range(times))
    monkeypatch.setattr(join, "call_on_signals", lambda stop: stop() if next(left, None) is not None else None)


def test_a_bounded_run_that_is_interrupted_keeps_its_windows_and_says_that_it_is_not_done(
    config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _signal_at_once(monkeypatch)
    with pytest.raises(ServiceError, match=r"stopped before the ends .* run the same again to go on"):
        join.run_join(config, until_latest=True, drain=True)
    assert stops == [False]
    _lag(monkeypatch, [True])
    assert join.run_join(config, until_latest=True, drain=True) == 0
    assert stops == [False, True]


def test_a_bounded_run_outlives_a_broker_that_is_away(
    config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _lag(monkeypatch, [BrokerUnavailableError("away"), False, True])
    assert join.run_join(config, until_latest=True) == 0
    assert stops == [False]


def test_a_live_drain_reads_on_to_the_ends_before_it_closes_windows(
    config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _lag(monkeypatch, [False, True])
    _signal_at_once(monkeypatch)
    assert join.run_join(config, drain=True) == 0
    assert stops == [False, True]


def test_a_drain_whose_topics_end_apart_reads_the_rest_of_the_later_one_without_alignment(
    config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _lag(monkeypatch, [False, False, True])
    monkeypatch.setattr(bounded_read, "_HELD_BACK_S", 0.0)
    options = sys.modules["rillet.jobs.joiner_job"].JobOptions
    assert join.run_join(config, until_latest=True, drain=True) == 0
    assert stops == [False, True]
    assert [call.kwargs["aligned"] for call in options.call_args_list] == [True, False]
    # What is not drained waits until the topic that ended early is left out.
    _lag(monkeypatch, [False, False, True])
    assert join.run_join(config, until_latest=True) == 0
    assert stops == [False, True, False]


def test_java_holds_the_lock_too(config: RilletConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A joiner that was killed leaves it for seconds, in which it may still complete a checkpoint."""
    from pyflink import pyflink_gateway_server

    monkeypatch.setattr(pyflink_gateway_server, "Popen", subprocess.Popen)
    with hold(config.data_dir, "join") as lock:
        join._start_java_apart(lock)
        java = pyflink_gateway_server.Popen(["sleep", "60"])
        try:
            path = (config.data_dir / "locks/join.lock").resolve()
            assert path in {link.resolve() for link in Path(f"/proc/{java.pid}/fd").iterdir()}
            assert os.getsid(java.pid) == java.pid
        finally:
            java.kill()
            java.wait()


def test_a_folder_that_takes_no_state_is_refused_before_the_job_begins(config: RilletConfig) -> None:
    (config.data_dir / "joiner").mkdir()
    (config.data_dir / "joiner/runs").write_text("in the way")
    with pytest.raises(ServiceError, match="joiner cannot be written to"):
        join.run_join(config)


def test_a_stop_without_a_savepoint_says_what_the_next_start_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, client = JoinerRun(tmp_path), MagicMock()
    newest = run.checkpoint_dir / "job" / "chk-3"
    newest.mkdir(parents=True)
    (newest / "_metadata").touch()
    failure = Py4JJavaError.__new__(Py4JJavaError)
    monkeypatch.setattr(Py4JJavaError, "__str__", lambda _: "Caused by: timed out")
    monkeypatch.setattr("pyflink.java_gateway.get_gateway", MagicMock())
    client._j_job_client.stopWithSavepoint.side_effect = failure
    with pytest.raises(ServiceError, match=f"timed out; the next start goes on from {newest}"):
        join._stop(client, _Running(), run, drain=False)  # type: ignore[arg-type]


def test_state_of_a_topic_that_was_made_anew_is_refused_before_anything_is_written(
    config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _lag(monkeypatch, [True])
    join.run_join(config, until_latest=True)
    (run,) = (config.data_dir / "joiner/runs").iterdir()
    end = JoinerRun(run).savepoint_dir(drained=False) / "savepoint"
    end.mkdir(parents=True)
    (end / "_metadata").touch()
    sys.modules["rillet.jobs.joiner_job"].ids_of_topics.return_value = {"features": "id1", "actions": "id9"}  # type: ignore[attr-defined]
    with pytest.raises(JoinerError, match="has id id9, that one had id2"):
        join.run_join(config)
    assert [*run.parent.iterdir()] == [run]


@pytest.mark.parametrize(
    ("ends", "told"), [({0: (0, 0), 1: (3, 3)}, False), ({0: (0, 0), 1: (0, 5)}, True), (None, False)]
)
def test_a_joiner_without_state_that_finds_rows_says_that_another_may_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: object, told: bool
) -> None:
    config = replace(load_config(ROOT / "rillet.toml"), data_dir=tmp_path)
    monkeypatch.setattr(join, "topic_ends", lambda kafka, topic: ends)
    join._warn_of_other_rows(config)
    assert ("Does another joiner write to this topic?" in caplog.text) is told


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

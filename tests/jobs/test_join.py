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
from typing import Any
from unittest.mock import MagicMock

import pytest

from rillet.devstack.process import free_port
from rillet.jobs import join
from rillet.jobs.config import load_config
from rillet.jobs.errors import ServiceError
from rillet.jobs.joiner_job import groups
from rillet.operators.flink_config import joiner_name
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


def test_the_probes_port_is_free_again_when_the_job_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = load_config(ROOT / "rillet.toml")
    health = replace(config.health, join_port=free_port())
    config = replace(config, health=health, data_dir=tmp_path)
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
    monkeypatch.setitem(
        sys.modules,
        "rillet.jobs.joiner_job",
        MagicMock(),
    )
    with pytest.raises(ServiceError, match="failed"):
        join.run_join(config)
    with socket.create_server(("127.0.0.1", health.join_port), reuse_port=False):
        pass


def test_ready_means_that_checkpoints_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now_s = 100.0
    monkeypatch.setattr(join, "time", MagicMock(monotonic=lambda: now_s))
    client, noted = MagicMock(), MagicMock()
    client.get_job_id.return_value = "job"
    client.get_job_execution_result.return_value.done.return_value = False
    watch = join._JobWatch(client, tmp_path, 5_000, noted)

    def complete(number: int) -> None:
        (tmp_path / f"job/chk-{number}").mkdir(parents=True)
        (tmp_path / f"job/chk-{number}/_metadata").touch()
        watch.tell()

    watch.tell()
    assert (watch.ready(), watch.running(), noted.call_count) == (False, False, 0)
    complete(9)
    assert (watch.ready(), watch.running(), watch.running(), noted.call_count) == (True, True, True, 1)
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


def test_settings_under_which_nothing_was_kept_are_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = load_config(ROOT / "rillet.toml")
    config = replace(config, health=replace(config.health, join_port=0), data_dir=tmp_path)
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
    monkeypatch.setitem(sys.modules, "rillet.jobs.joiner_job", MagicMock())
    with pytest.raises(ServiceError):
        join.run_join(config)
    assert not (tmp_path / "joiner/kept.json").exists()


@pytest.mark.parametrize(
    ("ends", "told"), [({0: (0, 0), 1: (3, 3)}, False), ({0: (0, 0), 1: (0, 5)}, True), (None, False)]
)
def test_a_joiner_without_state_that_finds_rows_says_that_another_may_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: Any, told: bool
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

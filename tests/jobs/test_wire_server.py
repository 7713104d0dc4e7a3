"""The server that is wired from a configuration; nothing is reached before it runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rillet.jobs import serve
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.serve import wire_server
from rillet.schemas import dump_spec
from tests.serving.helpers import MODEL, demo_spec


def _config(folder: Path) -> RilletConfig:
    (folder / "films.spec.toml").write_text(dump_spec(demo_spec()))
    (folder / "rillet.toml").write_text(
        f'spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n'
        f'[model]\nname = "{MODEL}"\n[serving]\nport = 0\ndrain_timeout_s = 0.2\n'
    )
    return load_config(folder / "rillet.toml")


def test_it_can_be_made_and_closed_without_a_broker(tmp_path: Path) -> None:
    service = wire_server(_config(tmp_path))
    assert not service.engine.ready
    service.close()
    assert not {"http", "batcher", "replica"} & {thread.name for thread in threading.enumerate()}


def test_it_listens_while_the_broker_is_away_and_stops_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_CLOSE_TIMEOUT_S", 0.1)  # the follower's thread waits for the broker
    service = wire_server(_config(tmp_path))
    ports: list[int] = []

    def started() -> None:
        ports.append(service.server.port)
        service.stop()

    assert service.run(started)
    assert ports[0] > 0

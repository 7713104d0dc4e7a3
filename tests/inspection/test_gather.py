"""`rillet status` asks addresses: what answers is ready or not, what does not answer is away, with the broker up or down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from rillet.devstack.process import Process
from rillet.inspection.cli import status
from rillet.inspection.gather import LoopGatherer, log_of
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import dump_spec
from tests.inspection.samples import NOW_MS, SPEC

METRICS = f"""# TYPE rillet_service_info gauge
rillet_service_info{{version="0.1.0",model="shop",spec_hash="{SPEC.hash:#x}"}} 1.0
# TYPE rillet_service_start_timestamp_seconds gauge
rillet_service_start_timestamp_seconds {NOW_MS / 1000 - 130}
# TYPE rillet_replica_ready gauge
rillet_replica_ready 1.0
# TYPE rillet_replica_dense_version gauge
rillet_replica_dense_version 4.0
# TYPE rillet_replica_reached_timestamp_seconds gauge
rillet_replica_reached_timestamp_seconds {NOW_MS / 1000 - 60}
"""


class _Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        metrics = self.path == "/metrics"
        body = METRICS.encode() if metrics else b"ok"
        self.send_response(200 if metrics else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Ports of a service that is ready and of one that is not."""
    handlers = (_Service, type("_NotReady", (_Service,), {"status": 503}))
    servers = [HTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield servers[0].server_address[1], servers[1].server_address[1]
    for server in servers:
        server.shutdown()
        server.server_close()


def config_file(folder: Path, join: int, train: int, serve: int) -> Path:
    """A configuration whose broker is away."""
    (folder / "shop.spec.toml").write_text(dump_spec(SPEC))
    path = folder / "rillet.toml"
    path.write_text(
        'spec = "shop.spec.toml"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n'
        f"[health]\njoin_port = {join}\ntrain_port = {train}\ndump_port = 0\n"
        f'[serving]\nport = {serve}\nhost = "0.0.0.0"\n'
    )
    return path


def config_of(folder: Path, join: int, train: int, serve: int) -> RilletConfig:
    return load_config(config_file(folder, join, train, serve))


def test_services_are_asked_wherever_they_were_started_and_with_the_broker_away(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    ready, unready = ports
    with LoopGatherer(config_of(tmp_path, 0, unready, ready), lambda: NOW_MS) as gatherer:
        facts = gatherer.look()
    states = {name: service.state for name, service in facts.services.items()}
    assert states == {"join": "no port", "train": "not ready", "serve": "ready"}
    serve = facts.services["serve"]
    assert (serve.model, serve.version, serve.uptime_s) == ("shop", 4, 130.0)
    assert serve.url == f"http://127.0.0.1:{ready}/v2/health/ready"
    assert facts.broker.state == "no answer"
    assert facts.topics["features"].records is None
    assert facts.replica is not None
    assert facts.replica.stale
    assert not facts.ready


def test_a_service_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with LoopGatherer(config_of(tmp_path, 1, 1, 1), lambda: NOW_MS) as gatherer:
        facts = gatherer.look()
    assert {service.state for service in facts.services.values()} == {"no answer"}
    assert (facts.joiner, facts.trainer, facts.replica) == (None, None, None)


def test_a_service_that_was_started_here_and_does_not_answer_yet_is_starting(tmp_path: Path) -> None:
    config = config_of(tmp_path, 1, 1, 0)
    process = Process("train", log_of(config, "train").parent)
    process.start(["sleep", "60"])
    try:
        started_ms = time.time_ns() // 1_000_000
        for later_ms, state in ((5_000, "starting"), (300_000, "no answer")):
            with LoopGatherer(config, lambda later_ms=later_ms: started_ms + later_ms) as gatherer:  # type: ignore[misc]
                services = gatherer.look().services
            assert (services["train"].state, services["join"].state) == (state, "no answer")
    finally:
        process.stop(kill=True)


def test_an_error_that_was_logged_before_the_service_was_started_is_not_its_last(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    config = config_of(tmp_path, 0, ports[0], 1)
    for name in ("train", "serve"):
        log_of(config, name).parent.mkdir(parents=True, exist_ok=True)
        log_of(config, name).write_text("2001-01-01 00:00:00,000 a ERROR old\n")
    with LoopGatherer(config, lambda: NOW_MS) as gatherer:
        services = gatherer.look().services
    assert services["train"].last_error is None
    error = services["serve"].last_error
    assert error is not None
    assert error.text == "old", "why it is away"


def test_the_command_shows_what_it_can_and_says_by_its_exit_status_that_not_all_is_ready(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    path = config_file(tmp_path, 0, ports[1], ports[0])
    shown = CliRunner().invoke(status, ["--config", str(path)])
    assert shown.exit_code == 1
    assert "! no Kafka broker answers at 127.0.0.1:1 (Connection refused)" in shown.output
    told = CliRunner().invoke(status, ["--json", "--config", str(path)])
    assert told.exit_code == 1
    assert json.loads(told.output)["services"]["train"]["state"] == "not ready"

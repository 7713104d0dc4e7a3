"""`rillet status` asks ports: what answers is ready or not, what does not answer is said to be away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rillet.jobs.status import run_status

from rillet.jobs.config import RilletConfig, parse_config

METRICS = b"""# TYPE rillet_rows gauge
rillet_rows{table="films"} 7.0
# TYPE rillet_idle gauge
rillet_idle 0.0
# TYPE other gauge
other 3.0
"""


class _Service(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        body = METRICS if self.path == "/metrics" else b"ok"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Ports of a service that is ready and of one that is not."""
    handlers = (_Service, type("_NotReady", (_Service,), {"status": 503}))
    servers = [HTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield servers[0].server_address[1], servers[1].server_address[1]
    for server in servers:
        server.shutdown()
        server.server_close()


def config_for(broker: str, **ports: int) -> RilletConfig:
    config = parse_config({"spec": "a"})
    health = replace(config.health, join_port=ports["join"], train_port=ports["train"])
    serving = replace(config.serving, port=ports["serve"], host="0.0.0.0")  # noqa: S104  a server's setting, not bound here
    return replace(config, health=health, serving=serving, kafka=replace(config.kafka, bootstrap_servers=broker))


@pytest.mark.integration
def test_services_are_ready_not_ready_away_or_without_a_port(broker: str, ports: tuple[int, int]) -> None:
    ready, unready = ports
    lines = run_status(config_for(broker, join=0, train=ready, serve=unready))
    assert "join          unknown       off: no port is configured" in lines
    assert f"train         ready         http://127.0.0.1:{ready}/readyz" in lines
    assert f"serve         not ready     http://127.0.0.1:{unready}/v2/health/ready" in lines
    assert '  rillet_rows{table="films"} 7' in lines
    assert not any("rillet_idle" in line or "other" in line for line in lines)
    assert sum("missing" in line for line in lines) == 5, "none of the topics is there"


@pytest.mark.integration
def test_a_service_that_is_away_is_said_to_be(broker: str, ports: tuple[int, int]) -> None:
    lines = run_status(config_for(broker, join=1, train=ports[0], serve=1))
    assert [line.split()[1:3] for line in lines if line.startswith(("join", "serve"))] == [["no", "answer"]] * 2

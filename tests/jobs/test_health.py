from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from rillet.devstack.process import free_port
from rillet.jobs.errors import PortInUseError
from rillet.jobs.health import HealthServer, start_health_server


class Service:
    ready = False


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[HealthServer]:
    Service.ready = False
    server = start_health_server(free_port(), lambda: Service.ready, registry=registry)
    yield server
    server.close()


def get(server: HealthServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_service_is_alive_before_it_is_ready(server: HealthServer) -> None:
    assert get(server, "/healthz")[0] == 200
    assert get(server, "/readyz") == (503, "not ready\n")
    Service.ready = True
    assert get(server, "/readyz") == (200, "ready\n")


def test_metrics_are_those_of_the_process_now(server: HealthServer, registry: CollectorRegistry) -> None:
    Counter("rillet_rows", "Rows.", registry=registry).inc(3)
    assert "rillet_rows_total 3.0" in get(server, "/metrics")[1]


def test_another_path_is_answered_with_the_known_ones(server: HealthServer) -> None:
    status, text = get(server, "/favicon.ico")
    assert status == 404
    assert "/readyz" in text


def test_port_zero_is_off() -> None:
    server = start_health_server(0, lambda: True)
    assert server.port == 0
    server.close()


def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match=r"\[health\]"):
            start_health_server(taken.getsockname()[1], lambda: True)


def test_closing_frees_the_port() -> None:
    port = free_port()
    start_health_server(port, lambda: True).close()
    start_health_server(port, lambda: True).close()

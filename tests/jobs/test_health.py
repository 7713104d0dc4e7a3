from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from rillet.devstack.process import free_port
from rillet.jobs import health
from rillet.jobs.errors import PortInUseError
from rillet.jobs.health import HealthServer
from rillet.jobs.services import probe


class Service:
    ready = False


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[HealthServer]:
    Service.ready = False
    server = HealthServer(free_port(), lambda: Service.ready, registry=registry)
    server.start()
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


@pytest.mark.parametrize(("host", "reached"), [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")])
def test_it_listens_on_addresses_of_version_6_too(host: str, reached: str) -> None:
    with HealthServer(free_port(), lambda: True, host=host) as server:
        url = f"http://{reached}:{server.port}/readyz"
        assert probe(url) == 200


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_SILENCE_S", 0.05)
    with HealthServer(free_port(), lambda: True) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
            assert silent.recv(1) == b""
        assert get(server, "/healthz")[0] == 200


def test_port_zero_is_off() -> None:
    server = HealthServer(0, lambda: True)
    server.start()
    assert not any(thread.name == "health" for thread in threading.enumerate())
    server.close()


def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = HealthServer(taken.getsockname()[1], lambda: True)
        with pytest.raises(PortInUseError, match=r"\[health\]"):
            server.start()


def test_nothing_listens_before_the_start() -> None:
    port = free_port()
    HealthServer(port, lambda: True).close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))


def test_closing_frees_the_port_and_may_be_repeated() -> None:
    port = free_port()
    for _ in range(2):
        server = HealthServer(port, lambda: True)
        server.start()
        server.close()
        server.close()

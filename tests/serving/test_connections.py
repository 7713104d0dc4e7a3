"""Connections that end early, bodies that do not arrive, and what follows on a connection that is kept: over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from rillet.serving.config import ServingConfig
from tests.serving.calls import TENSOR, Gate, document, get, linear_model, post, until
from tests.serving.helpers import MODEL, Running, demo_spec, request_tensor, running_server

pytestmark = pytest.mark.integration

_PATH = f"/v2/models/{MODEL}/infer"
_LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"


@contextmanager
def _serving(config: ServingConfig | None = None) -> Iterator[Running]:
    spec = demo_spec()
    with running_server(spec, linear_model(spec), config) as running:
        yield running


def _begin(running: Running, length: int, sent: bytes, *headers: str) -> socket.socket:
    """A connection on which the head of an infer request was sent, and the beginning of its body."""
    host, _, port = running.url.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    lines = [f"POST {_PATH} HTTP/1.1", "Host: here", f"Content-Length: {length}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode() + sent)
    return connection


def _answer(connection: socket.socket) -> tuple[int, str, bool]:
    """Status and error of the next answer, and whether the server closes the connection after it."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read()).get("error", ""), response.will_close


def _counted(running: Running, reason: str) -> float | None:
    return running.metrics.registry.get_sample_value("rillet_serving_rejected_total", {"reason": reason})


def test_the_rest_of_a_refused_body_is_no_request_and_the_connection_goes_on() -> None:
    with _serving() as running:
        running.model.ready = False
        body = b"GET /metrics HTTP/1.1\r\n\r\n"
        with _begin(running, len(body), body[:5]) as connection:
            assert _answer(connection) == (503, "no model is loaded yet; the replica waits for a base", False)
            connection.sendall(body[5:] + _LIVE)
            assert _answer(connection) == (200, "", False)


def test_a_client_that_waits_to_send_its_body_is_not_kept_after_a_refusal() -> None:
    config = ServingConfig(port=0, max_body_bytes=1000, max_bodies_bytes=1000)
    with _serving(config) as running:
        with _begin(running, 1001, b"", "Expect: 100-continue") as connection:
            assert _answer(connection) == (413, "the body is larger than max_body_bytes = 1000", True)
            assert connection.recv(1) == b""
        running.model.ready = False
        with _begin(running, 100, b"", "Expect: 100-continue") as connection:
            assert _answer(connection)[::2] == (503, True)
            assert connection.recv(1) == b"", "else the next request would be read as the body"


def test_a_client_that_waits_to_send_its_body_is_told_to() -> None:
    body = json.dumps(document(TENSOR)).encode()
    with _serving() as running, _begin(running, len(body), b"", "Expect: 100-continue") as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert _answer(connection) == (200, "", False)


def test_a_body_that_does_not_arrive_in_time_is_408() -> None:
    with _serving(ServingConfig(port=0, body_timeout_s=0.1)) as running, _begin(running, 1000, b"{") as connection:
        assert _answer(connection) == (408, "the body did not arrive within 0.1 s", True)
        assert connection.recv(1) == b""
        assert _counted(running, "body_timeout") == 1


def test_bodies_in_flight_are_bounded_together_and_give_their_room_back() -> None:
    config = ServingConfig(port=0, max_body_bytes=10_000, max_bodies_bytes=10_000)
    with _serving(config) as running:
        with _begin(running, 9_900, b" " * 9_800):
            until(lambda: post(running.url, document(TENSOR))[0] == 429)
            status, answer, headers = post(running.url, document(TENSOR))
            assert (status, headers["retry-after"]) == (429, "1")
            assert "9800 bytes of bodies are held" in answer["error"]
            assert get(running.url, "/v2/health/ready")[0] == 200
        until(lambda: post(running.url, document(TENSOR))[0] == 200)
        for _ in range(20):
            assert post(running.url, document(TENSOR))[0] == 200


def test_a_body_that_is_not_there_at_the_end_of_a_stop_is_503() -> None:
    with _serving(ServingConfig(port=0, drain_timeout_s=0.2)) as running, _begin(running, 1000, b"{") as connection:
        until(lambda: running.service.server._app.in_flight)
        running.service.stop()
        assert _answer(connection)[:2] == (503, "the server stopped before the body had arrived")


def test_a_body_that_takes_longer_than_the_deadline_is_504_and_not_queued() -> None:
    body = json.dumps(document(TENSOR, timeout_ms=20)).encode()
    with _serving() as running, _begin(running, len(body), body[:9]) as connection:
        time.sleep(0.03)
        connection.sendall(body[9:])
        status, error, _ = _answer(connection)
        assert (status, "ms to arrive, too long for it" in error) == (504, True)
        assert running.metrics.registry.get_sample_value("rillet_serving_batch_rows_count") == 0


def test_a_page_whose_client_is_gone_is_not_logged() -> None:
    body = json.dumps(document(TENSOR)).encode()
    with _serving() as running:
        gate = Gate(running)
        with _begin(running, len(body), body):
            until(lambda: running.engine.queue_rows == 3)
        with _begin(running, len(body), body) as stays:
            until(lambda: running.engine.queue_rows == 6)
            time.sleep(0.05)  # the server reads that the other one has closed
            gate.open.set()
            assert _answer(stays)[0] == 200
        until(lambda: _counted(running, "client_gone") == 1)
        assert len(running.features.events) == 1


def test_a_client_that_goes_after_a_large_body_is_noticed_before_its_page_is_logged() -> None:
    body = json.dumps(document(TENSOR, log=True)).encode().ljust(100_000)
    with _serving() as running:
        assert post(running.url, document(TENSOR, log=False))[0] == 200
        gate = Gate(running)
        with _begin(running, len(body), b"") as connection:
            until(lambda: running.service.server._app.in_flight)
            # It then finds all of it at once, which is more than it reads ahead of whoever takes it.
            assert running.engine._loop is not None
            running.engine._loop.call_soon_threadsafe(time.sleep, 0.05)
            connection.sendall(body)
            until(lambda: running.engine.queue_rows == 3)
        time.sleep(0.05)  # the server reads that it was closed
        gate.open.set()
        until(lambda: _counted(running, "client_gone") == 1)
        assert running.features.events == []


def test_a_client_that_goes_within_its_body_has_sent_nothing_invalid() -> None:
    with _serving() as running:
        with _begin(running, 1000, b"{"):
            until(lambda: running.service.server._app.in_flight)
        until(lambda: _counted(running, "client_gone") == 1)
        assert _counted(running, "invalid") is None


def test_clients_that_do_not_read_their_answers_hold_no_room_of_bodies() -> None:
    body = json.dumps(document(request_tensor(np.random.default_rng(9), 500), log=False)).encode()
    head = f"POST {_PATH} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with _serving(ServingConfig(port=0, max_body_bytes=len(body), max_bodies_bytes=len(body))) as running:
        server = running.service.server
        assert server._socket is not None
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.3)
            connection.connect(("127.0.0.1", server.port))
            with suppress(TimeoutError):
                for _ in range(50):
                    connection.sendall(head + body)
            time.sleep(0.1)
            assert server._app.in_flight == 1, "an answer waits to be read"
            assert post(running.url, body)[0] == 200


def test_a_deadline_is_never_rounded_to_none() -> None:
    with _serving() as running:
        for name in ("timeout", "timeout_ms"):
            assert post(running.url, document(TENSOR, **{name: np.nextafter(0, 1).item()}))[0] == 504


def test_connections_that_are_kept_end_while_the_server_gives_notice_of_its_stop() -> None:
    body = json.dumps(document(TENSOR)).encode()
    with _serving(ServingConfig(port=0, drain_notice_s=60.0)) as running:
        with _begin(running, len(body), body) as connection:
            assert _answer(connection) == (200, "", False)
            running.service.stop()
            until(lambda: not running.engine.ready)
            connection.sendall(
                f"POST {_PATH} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            assert _answer(connection) == (200, "", True)
        running.service.stop()

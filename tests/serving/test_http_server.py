"""The HTTP server as a stage: what its start refuses, what its end does not wait for, and who hears of its failure."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from rillet.schemas import FlushTimeoutError
from rillet.serving.config import ServingConfig
from rillet.serving.errors import ServingError
from rillet.serving.server import InferenceServer


class _App:
    """An ASGI application that answers when it is let."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.release = threading.Event()
        self.release.set()

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        self.in_flight += 1
        try:
            while not self.release.is_set():
                await asyncio.sleep(0.005)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
            await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]
        finally:
            self.in_flight -= 1


def _server(app: _App, port: int = 0) -> InferenceServer:
    return InferenceServer(app, ServingConfig(port=port))  # type: ignore[arg-type]


def _get(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return int(answer.status)


def test_it_answers_from_its_start_to_its_close() -> None:
    server = _server(_App())
    assert server.port == 0
    server.start()
    assert _get(server.port) == 200
    server.close()
    with pytest.raises(urllib.error.URLError):
        _get(server.port)


@pytest.mark.parametrize(("host", "reached"), [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")])
def test_it_listens_on_addresses_of_version_6_too(host: str, reached: str) -> None:
    server = InferenceServer(_App(), ServingConfig(host=host, port=0))  # type: ignore[arg-type]
    server.start()
    try:
        with urllib.request.urlopen(f"http://{reached}:{server.port}/", timeout=10) as answer:
            assert answer.status == 200
    finally:
        server.close()


def test_a_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = _server(_App(), taken.getsockname()[1])
        with pytest.raises(ServingError, match=r"serving\.port"):
            server.start()
        server.close()


def test_a_flush_waits_for_requests_in_flight_and_a_close_does_not() -> None:
    app = _App()
    server = _server(app)
    server.start()
    app.release.clear()
    with ThreadPoolExecutor(2) as pool:
        answered = pool.submit(_get, server.port)
        while not app.in_flight:
            time.sleep(0.002)
        with pytest.raises(FlushTimeoutError, match="1 requests are in flight"):
            server.flush(0.02)
        app.release.set()
        server.flush(5.0)
        assert answered.result() == 200

        app.release.clear()
        dropped = pool.submit(_get, server.port)
        while not app.in_flight:
            time.sleep(0.002)
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 2.0
        with pytest.raises(OSError):  # noqa: PT011  reset or closed, as it happens
            dropped.result()


def test_a_server_that_ends_by_itself_tells_its_owner() -> None:
    errors: list[BaseException] = []
    failed = threading.Event()

    def on_failure(error: BaseException) -> None:
        errors.append(error)
        failed.set()

    server = InferenceServer(_App(), ServingConfig(port=0), on_failure)  # type: ignore[arg-type]
    server.start()
    server._server.should_exit = True
    assert failed.wait(5)
    assert "ended by itself" in str(errors[0])
    server.close()
    assert len(errors) == 1

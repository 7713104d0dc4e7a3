"""Both clients over a fake network: they retry what may pass, give up when it is time, and keep their connections."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import numpy as np
import pytest

from rillet.schemas import ClosedError
from rillet.serving.client import (
    AsyncClient,
    Candidates,
    Client,
    ClientError,
    DeadlineExceededError,
    MalformedAnswerError,
    RequestRefusedError,
    RetryPolicy,
    Scores,
    ServerBusyError,
    ServerUnavailableError,
    Timeouts,
)
from rillet.serving.client import transport as http
from rillet.serving.client.calls import Send
from rillet.serving.features import ScoreRequest
from rillet.serving.protocol import parse_infer_request
from tests.serving.fake_server import JSON_LENGTH, FakeServer
from tests.serving.helpers import demo_spec, request_tensor

SPEC = demo_spec()
FILMS = Candidates(request_tensor(np.random.default_rng(1), 3))
URL = "http://films.example:8500/"
SOON = RetryPolicy(attempts=3, first_wait_s=0.001, longest_wait_s=0.001)
KINDS = ["blocking", "asyncio"]


def _call(kind: str, server: FakeServer, method: str, *arguments: Any, **settings: Any) -> Any:
    """One call of a fresh client."""
    options = {"transport": httpx2.MockTransport(server), "retries": SOON, **settings}
    if kind == "blocking":
        with Client(URL, "films", **options) as client:
            return getattr(client, method)(*arguments)

    async def run() -> Any:
        async with AsyncClient(URL, "films", **options) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


def _by_film(request: ScoreRequest, tasks: int) -> np.ndarray:
    return np.repeat(np.arange(request.rows, dtype=np.float32)[:, None], tasks, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_come_from_the_server(kind: str) -> None:
    scores: Scores = _call(kind, FakeServer(SPEC, "films", _by_film), "score", FILMS)
    assert scores.logits.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (scores.version, scores.logged, scores.attempts) == ("3", True, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "trouble",
    [408, 429, 502, 503, 504, httpx2.ConnectError("refused"), httpx2.ReadError("reset"), httpx2.ReadTimeout("slow")],
)
def test_what_may_pass_is_tried_again_as_the_same_request(kind: str, trouble: Any) -> None:
    server = FakeServer(SPEC, "films")
    server.trouble = [trouble, trouble]
    scores: Scores = _call(kind, server, "score", FILMS)
    assert scores.attempts == 3
    # one request id: the joiner can tell a copy
    ids = {parse_infer_request(one.content, int(one.headers[JSON_LENGTH])).id for one in server.received}
    assert ids == {scores.request_id}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 404, 413, 500])
def test_a_refused_request_is_not_sent_again(kind: str, status: int) -> None:
    server = FakeServer(SPEC, "films")
    server.trouble = [status]
    with pytest.raises(RequestRefusedError, match=f"answered with {status}: no"):
        _call(kind, server, "score", FILMS)
    assert len(server.received) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (429, ServerBusyError),
        (503, ServerUnavailableError),
        (httpx2.ConnectError("refused"), ServerUnavailableError),
        (httpx2.ConnectTimeout("nobody"), ServerUnavailableError),
        (httpx2.ReadTimeout("slow"), DeadlineExceededError),
        (httpx2.PoolTimeout("full"), DeadlineExceededError),
    ],
)
def test_the_last_attempts_trouble_is_what_the_caller_gets(kind: str, trouble: Any, error: type[ClientError]) -> None:
    server = FakeServer(SPEC, "films")
    server.trouble = [trouble] * 3
    with pytest.raises(error, match=r"http://films\.example:8500/v2/models/films/infer.*after 3 attempts"):
        _call(kind, server, "score", FILMS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wait_that_the_server_asks_for_is_kept_or_not_begun(kind: str) -> None:
    server = FakeServer(SPEC, "films")
    server.trouble = [httpx2.Response(429, headers={"Retry-After": "30"}, content=b"")]
    started = time.monotonic()
    with pytest.raises(ServerBusyError) as caught:
        _call(kind, server, "score", FILMS, timeouts=Timeouts(total_s=10))
    assert caught.value.retry_after_s == 30
    assert time.monotonic() - started < 5
    assert len(server.received) == 1


def test_an_async_attempt_ends_in_time_whatever_the_transport_does() -> None:
    class Hanging(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await asyncio.sleep(60)
            raise AssertionError("unreachable")

    async def run() -> None:
        timeouts = Timeouts(attempt_s=0.02, total_s=0.05)
        async with AsyncClient(URL, "films", timeouts=timeouts, transport=Hanging()) as client:
            await client.score(FILMS)

    with pytest.raises(DeadlineExceededError, match="no answer in time"):
        asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_readiness_is_a_question_and_a_wait(kind: str) -> None:
    server = FakeServer(SPEC, "films")
    assert _call(kind, server, "ready")
    server.trouble = [503]
    assert not _call(kind, server, "ready")
    server.trouble = [httpx2.ConnectError("refused")]
    assert not _call(kind, server, "ready")
    server.trouble = [httpx2.ConnectError("refused")]
    _call(kind, server, "wait_until_ready", 5.0)
    server.trouble = [503] * 5
    with pytest.raises(ServerUnavailableError, match=r"not ready within 0\.1 s: .*503: no"):
        _call(kind, server, "wait_until_ready", 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_is_not_waited_for(kind: str) -> None:
    server = FakeServer(SPEC, "songs")
    with pytest.raises(RequestRefusedError, match="404"):
        _call(kind, server, "wait_until_ready", 5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_for_a_gateway_go_with_every_request(kind: str) -> None:
    server = FakeServer(SPEC, "films")
    _call(kind, server, "score", FILMS, headers={"Authorization": "Bearer x"})
    assert server.received[0].headers["authorization"] == "Bearer x"


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8500",
        "ftp://films",
        "http://",
        "http://\n",
        "http://[::1",
        "http://a b",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://exa\u00admple..x/",
        f"http://{'a' * 70}.example",
        "http://films/?a=b",
    ],
)
def test_an_address_that_is_none_is_refused_before_the_first_request(make: Any, url: str) -> None:
    with pytest.raises(ClientError, match="is not the address of a server"):
        make(url, "films")


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_names_and_headers_that_cannot_be_sent_are_refused_before_the_first_request(make: Any) -> None:
    with pytest.raises(ClientError, match=r"^model: "):
        make(URL, "\ud800")
    with pytest.raises(ClientError, match=r"^headers: "):
        make(URL, "films", headers={"X": "\ud800"})
    with pytest.raises(ClientError, match="Authorization header") as caught:
        make("http://user:secret@films", "films")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_cannot_be_decompressed_is_malformed(kind: str) -> None:
    class Garbage(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(
                200, headers={"Content-Encoding": "gzip"}, stream=httpx2.ByteStream(b"not gzip"), request=request
            )

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return self.handle_request(request)

    with pytest.raises(MalformedAnswerError, match="cannot be decompressed"):
        _call(kind, FakeServer(SPEC, "films"), "score", FILMS, transport=Garbage())


def test_a_closed_client_says_so() -> None:
    client = Client(URL, "films", transport=httpx2.MockTransport(FakeServer(SPEC, "films")))
    client.close()
    with pytest.raises(ClosedError, match="the client is closed"):
        client.score(FILMS)

    async def run() -> None:
        client = AsyncClient(URL, "films", transport=httpx2.MockTransport(FakeServer(SPEC, "films")))
        await client.close()
        await client.score(FILMS)

    with pytest.raises(ClosedError, match="the client is closed"):
        asyncio.run(run())


@contextmanager
def _listening(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that does whatever ``handle`` does with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=guarded, args=(listener.accept()[0],), daemon=True).start()

        def guarded(connection: socket.socket) -> None:
            # The client hangs up in the middle: that is the point.
            with connection, suppress(OSError):
                handle(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _dripping(beginning: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(beginning)
        for _ in range(500):
            time.sleep(0.02)
            connection.sendall(b"x")

    return handle


def _over_the_network(kind: str, url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    if kind == "blocking":
        with Client(url, "films", **settings) as client:
            return getattr(client, method)(*arguments)

    async def run() -> Any:
        async with AsyncClient(url, "films", **settings) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"],
    ids=["headers", "body"],
)
def test_an_answer_that_comes_byte_by_byte_does_not_outlast_the_deadline(kind: str, beginning: bytes) -> None:
    timeouts = Timeouts(attempt_s=0.1, total_s=0.15)
    started = time.monotonic()
    with _listening(_dripping(beginning)) as url, pytest.raises(DeadlineExceededError, match="no answer in time"):
        _over_the_network(kind, url, "score", FILMS, timeouts=timeouts, retries=SOON)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_is_waited_for_no_longer_than_asked(kind: str) -> None:
    started = time.monotonic()
    with (
        _listening(lambda connection: time.sleep(10)) as url,
        pytest.raises(ServerUnavailableError, match=r"not ready within 0\.1 s: .*no answer in time"),
    ):
        _over_the_network(kind, url, "wait_until_ready", 0.1)
    assert time.monotonic() - started < 5


def test_connections_are_kept_and_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    connections: list[int] = []

    def handle(connection: socket.socket) -> None:
        connections.append(1)
        while connection.recv(1 << 16):
            connection.sendall(answer)

    with _listening(handle) as url, Client(url, "films") as client:
        assert [client.ready() for _ in range(3)] == [True] * 3
    assert len(connections) == 1


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)


def test_a_full_pool_is_not_taken_for_a_slow_server() -> None:
    error = http.failure(Send("GET", URL, {}, b"", 1.0, 1.0), httpx2.PoolTimeout(""))
    assert "max_connections" in str(error)

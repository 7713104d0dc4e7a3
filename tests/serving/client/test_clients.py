"""Both clients over a fake network: they retry what may pass, give up when it is time, and keep their connections."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from typing import Any

import httpx2
import numpy as np
import pytest

from rillet.serving import ScoreRequest
from rillet.serving.client import (
    AsyncClient,
    Candidates,
    Client,
    ClientError,
    DeadlineExceededError,
    RequestRefusedError,
    RetryPolicy,
    Scores,
    ServerBusyError,
    ServerUnavailableError,
    Timeouts,
)
from rillet.serving.client import transport as http
from rillet.serving.client.exchanges import metadata_exchange
from tests.serving.fake_server import FakeServer
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
    "trouble", [429, 503, httpx2.ConnectError("refused"), httpx2.ReadError("reset"), httpx2.ReadTimeout("slow")]
)
def test_what_may_pass_is_tried_again_as_the_same_request(kind: str, trouble: Any) -> None:
    server = FakeServer(SPEC, "films")
    server.trouble = [trouble, trouble]
    scores: Scores = _call(kind, server, "score", FILMS)
    assert scores.attempts == 3
    assert len({request.content for request in server.received}) == 1  # one request id: the joiner can tell a copy
    assert server.scored[0].request_id == scores.request_id


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
def test_an_address_that_is_none_is_refused_before_the_first_request(make: Any) -> None:
    with pytest.raises(ClientError, match="no address of a server"):
        make("127.0.0.1:8500", "films")


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)


def test_a_full_pool_is_not_taken_for_a_slow_server() -> None:
    error = http.failure(metadata_exchange("films"), URL, httpx2.PoolTimeout(""))
    assert "max_connections" in str(error)


def test_an_application_that_asks_for_scores_loads_nothing_of_the_server() -> None:
    code = (
        "import sys, rillet.serving.client; "
        "print(*sorted({'torch', 'starlette', 'uvicorn', 'numba', 'safetensors', 'confluent_kafka'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

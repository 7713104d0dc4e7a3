"""The driver against a server made for the test: order, distance in event time, retries, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web

from rillet.demo.driver import Driver, DriveSettings, DriveStats
from rillet.demo.errors import DemoError
from rillet.recordings import Event
from rillet.schemas import ActionEvent, BackpressureError, FeatureEvent, parse_spec

SPEC = parse_spec(
    """
[spec]
name = "tiny"
[[context]]
name = "user"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 2
kind = "id"
[[tasks]]
name = "click"
action = "click"
window_ms = 1000
"""
)


class Actions:
    """Stands in for the producer: keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[ActionEvent] = []
        #: how often it refuses before it takes
        self.full = 2

    def submit(self, event: ActionEvent) -> None:
        if self.full:
            self.full -= 1
            raise BackpressureError("full")
        self.sent.append(event)

    def __len__(self) -> int:
        return 0

    def flush(self, timeout_s: float) -> None:
        return None


def events(count: int, gap_ms: int) -> Iterator[Event]:
    """Requests of two films, each with an action half a gap later."""
    user, _ = SPEC.encode_side("context", {"user": [1]})
    films, _ = SPEC.encode_side("item", {"film": [5, 6]})
    for number in range(count):
        at = number * gap_ms
        yield FeatureEvent(f"r{number}", at, SPEC.hash, user, np.array([3, 8]), films)
        yield ActionEvent(f"r{number}", at + gap_ms // 2, 8, "click")


class Server:
    """Answers as the protocol says, with delays and failures to order; keeps what was in flight together."""

    def __init__(self, delay_s: float = 0.0, answer: Callable[[int], int] = lambda number: 200) -> None:
        self.requests: list[dict[str, Any]] = []
        self.tensors: list[np.ndarray[Any, Any]] = []
        self.spreads: list[int] = []
        self.most = 0
        self._times: list[int] = []
        self._delay_s, self._answer = delay_s, answer
        self._count = 0

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        length = int(request.headers["Inference-Header-Content-Length"])
        document = orjson.loads(body[:length])
        time_ms = document["parameters"]["event_time_ms"]
        self._times.append(time_ms)
        self.spreads.append(max(self._times) - min(self._times))
        self.most = max(self.most, len(self._times))
        await asyncio.sleep(self._delay_s)
        self._times.remove(time_ms)
        status = self._answer(self._count)
        self._count += 1
        if status != 200:
            return web.Response(status=status, body=b'{"error":"no"}')
        self.requests.append(document)
        size = document["inputs"][0]["parameters"]["binary_data_size"]
        self.tensors.append(np.frombuffer(body[length : length + size], "<i8").reshape(document["inputs"][0]["shape"]))
        head = orjson.dumps({"outputs": [], "parameters": {"logged": self._count % 2 == 0}})
        logits = np.array([0.5, 1.5], "<f4").tobytes()
        return web.Response(body=head + logits, headers={"Inference-Header-Content-Length": str(len(head))})


def drive(server: Server, source: Iterator[Event], **settings: Any) -> tuple[DriveStats, Actions]:
    stats, actions = DriveStats(0), Actions()

    async def run() -> None:
        app = web.Application()
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = server.infer
        app.router.add_post("/v2/models/tiny/infer", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            options = DriveSettings(f"http://127.0.0.1:{port}", "tiny", **{"rate": 5000, **settings})
            await Driver(SPEC, options, actions, stats, watched="click").run(source)  # type: ignore[arg-type]
        finally:
            await runner.cleanup()

    try:
        asyncio.run(run())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return stats, actions


def test_every_request_is_asked_with_its_own_id_time_and_features() -> None:
    server = Server()
    stats, _ = drive(server, events(20, 100))
    assert sorted(d["id"] for d in server.requests) == sorted(f"r{i}" for i in range(20))
    assert {d["parameters"]["event_time_ms"] for d in server.requests} == {i * 100 for i in range(20)}
    assert all(tensor.tolist() == [[1 << 48 | 1, 2 << 48 | 5], [1 << 48 | 1, 2 << 48 | 6]] for tensor in server.tensors)
    assert (stats.requests, stats.impressions, stats.actions) == (20, 40, 20)
    assert stats.unlogged == 10


def test_actions_are_sent_after_their_answer_and_all_of_them() -> None:
    _, actions = drive(Server(delay_s=0.01), events(50, 100))
    assert {action.request_id for action in actions.sent} == {f"r{i}" for i in range(50)}
    assert all(action.impression_id == 8 for action in actions.sent)


def test_requests_in_flight_stay_within_concurrency_and_spread() -> None:
    server = Server(delay_s=0.01)
    drive(server, events(60, 1000), concurrency=8, spread_ms=3000)
    assert max(server.spreads) <= 3000
    assert 2 <= server.most <= 4
    server = Server(delay_s=0.01)
    drive(server, events(60, 1), concurrency=8, spread_ms=3000)
    assert 5 <= server.most <= 8


def test_actions_keep_event_time_order_within_the_spread() -> None:
    _, actions = drive(Server(delay_s=0.005), events(100, 1000), concurrency=8, spread_ms=3000)
    newest = 0
    for action in actions.sent:
        assert action.event_time_ms > newest - 3500
        newest = max(newest, action.event_time_ms)


def test_a_busy_server_is_asked_again() -> None:
    stats, actions = drive(Server(answer=lambda number: 429 if number < 3 else 200), events(5, 100))
    assert stats.retries == 3
    assert stats.requests == len(actions.sent) == 5


def test_a_refused_request_ends_the_demo_with_the_servers_words() -> None:
    with pytest.raises(DemoError, match=r"was answered with 400: .*no"):
        drive(Server(answer=lambda number: 400), events(5, 100))


def test_the_rate_is_kept() -> None:
    stats, _ = drive(Server(), events(40, 100), rate=200)
    assert stats.finished_s - stats.started_s >= 39 / 200

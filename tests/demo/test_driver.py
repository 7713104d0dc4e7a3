"""The driver against a fake server: order, distance in event time, retries, refusals, latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest

from rillet.demo.driver import Driver, DriveSettings, DriveStats
from rillet.demo.errors import DemoError
from rillet.recordings import Event
from rillet.schemas import ActionEvent, BackpressureError, FeatureEvent, parse_spec
from tests.serving.fake_server import JSON_LENGTH, FakeServer

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
        self.failed = 0

    @property
    def delivered(self) -> int:
        return len(self.sent)

    def submit(self, event: ActionEvent) -> None:
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
    """Answers with delays and failures to order; keeps what was in flight together."""

    def __init__(self, delay_s: float = 0.0, answer: Callable[[int], int] = lambda number: 200) -> None:
        self.fake = FakeServer(SPEC, "tiny")
        self.spreads: list[int] = []
        self.most = 0
        self._times: list[int] = []
        self._delay_s, self._answer = delay_s, answer
        self._count = 0

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        document = orjson.loads(request.content[: int(request.headers[JSON_LENGTH])])
        time_ms = document["parameters"]["event_time_ms"]
        self._times.append(time_ms)
        self.spreads.append(max(self._times) - min(self._times))
        self.most = max(self.most, len(self._times))
        await asyncio.sleep(self._delay_s)
        self._times.remove(time_ms)
        status = self._answer(self._count)
        self._count += 1
        if status != 200:
            self.fake.trouble = [status]
        else:
            self.fake.logged = self._count % 2 == 0
        return self.fake(request)


def drive(
    server: Server, source: Iterator[Event], given: Actions | None = None, **options: Any
) -> tuple[DriveStats, Actions]:
    stats, actions = DriveStats(0), Actions() if given is None else given
    settings = DriveSettings("http://server", "tiny", **{"rate": 5000, **options})

    async def run() -> None:
        client = settings.client(transport=httpx2.MockTransport(server))
        await Driver(SPEC, settings, client, actions, stats, watched="click").run(source)  # type: ignore[arg-type]

    try:
        asyncio.run(run())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return stats, actions


def test_every_request_is_asked_with_its_own_id_time_and_features() -> None:
    server = Server()
    stats, _ = drive(server, events(20, 100))
    scored = server.fake.scored
    assert sorted(request.request_id for request in scored) == sorted(f"r{i}" for i in range(20))
    assert {request.event_time_ms for request in scored} == {i * 100 for i in range(20)}
    for request in scored:
        assert request.context_fids.tolist() == [1 << 48 | 1]
        assert request.item_fids.tolist() == [2 << 48 | 5, 2 << 48 | 6]
        assert request.impression_ids.tolist() == [3, 8]
    assert (stats.requests, stats.impressions, stats.actions) == (20, 40, 20)
    assert stats.unlogged == 10


def test_the_live_auc_waits_for_the_label_window_of_each_request_and_no_longer() -> None:
    # Every request is acted on 900 ms and 180 requests later, within the window; every tenth also on the other film, after it.
    in_order: list[tuple[int, Event]] = []
    user, _ = SPEC.encode_side("context", {"user": [1]})
    films, _ = SPEC.encode_side("item", {"film": [5, 6]})
    for at in range(0, 1_500, 5):
        in_order.append((at, FeatureEvent(f"r{at}", at, SPEC.hash, user, np.array([3, 8]), films)))
        in_order.append((at + 900, ActionEvent(f"r{at}", at + 900, 8, "click")))
        if at % 50 == 0:
            in_order.append((at + 1_000, ActionEvent(f"r{at}", at + 1_000, 3, "click")))
    server = Server()
    server.fake.logits = lambda request, tasks: np.array([[0.0], [1.0]], np.float32)
    stats, _ = drive(server, (event for _, event in sorted(in_order, key=lambda pair: pair[0])))
    assert stats.auc.value() == 1.0


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
    with pytest.raises(DemoError, match=r"request r0 has no scores: .*answered with 400: no"):
        drive(Server(answer=lambda number: 400), events(5, 100))


def test_the_rate_is_kept() -> None:
    stats, _ = drive(Server(), events(40, 100), rate=200)
    assert stats.finished_s - stats.started_s >= 39 / 200


def test_an_absent_server_is_waited_for_and_loses_no_action() -> None:
    server = Server()
    server.fake.trouble = [httpx2.ConnectError("refused"), httpx2.ReadError("reset")]
    stats, actions = drive(server, events(5, 100))
    assert stats.retries == 2
    assert {action.request_id for action in actions.sent} == {f"r{i}" for i in range(5)}


def test_latency_counts_from_when_a_request_was_due() -> None:
    # One at a time, 20 ms each, asked for at once: the fifth has waited for the four before it.
    stats, _ = drive(Server(delay_s=0.02), events(5, 100), concurrency=1)
    assert min(stats.latency_s) >= 0.02
    assert max(stats.latency_s) >= 5 * 0.02 - 0.01


def test_a_full_queue_of_actions_delays_them_and_loses_none() -> None:
    class Full(Actions):
        def submit(self, event: ActionEvent) -> None:
            self.offered = getattr(self, "offered", 0) + 1
            if self.offered == 2:
                raise BackpressureError("full")
            super().submit(event)

    actions = Full()
    settings = DriveSettings("http://server", "tiny", rate=5000)

    async def run() -> None:
        client = settings.client(transport=httpx2.MockTransport(Server()))
        await Driver(SPEC, settings, client, actions, DriveStats(0), watched="click").run(events(3, 100))  # type: ignore[arg-type]

    asyncio.run(run())
    assert {action.request_id for action in actions.sent} == {"r0", "r1", "r2"}
    assert actions.offered == 4


def test_a_slow_first_delivery_makes_no_action_late() -> None:
    """Nothing is asked for long after an action that the broker does not have yet."""
    server = Server()

    class Slow(Actions):
        """The broker has each action a tenth of a second after it was sent."""

        def __init__(self) -> None:
            super().__init__()
            self.at_s: list[float] = []
            #: the newest request asked for, and the oldest action on its way, whenever an action is delivered
            self.apart: list[int] = []

        @property
        def delivered(self) -> int:
            done = sum(at_s < time.monotonic() - 0.1 for at_s in self.at_s)
            if done < len(self.sent) and server.fake.scored:
                newest = max(request.event_time_ms for request in server.fake.scored)
                self.apart.append(newest - self.sent[done].event_time_ms)
            return done

        def submit(self, event: ActionEvent) -> None:
            super().submit(event)
            self.at_s.append(time.monotonic())

    actions = Slow()
    drive(server, events(20, 1000), actions, concurrency=8, spread_ms=3000)
    assert len(actions.sent) == 20
    assert 0 < max(actions.apart) <= 3000

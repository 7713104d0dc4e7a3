"""Calls without a network, a clock or a sleep: what is sent when, and with which limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from rillet.serving.client import (
    Candidates,
    ClientError,
    RetryPolicy,
    ServerBusyError,
    ServerUnavailableError,
    Timeouts,
)
from rillet.serving.client.calls import Call, Calls, Send, Sleep
from rillet.serving.client.exchanges import JSON_LENGTH, Reply

FILMS = Candidates(np.ones((2, 3), np.int64))
BUSY = Reply(429, {}, b"{}")


class World:
    """A clock that moves only by what a call asks for; each attempt takes ``attempt_s``."""

    def __init__(self, answer: Callable[[Send], Reply | ClientError], attempt_s: float) -> None:
        self.now_s = 0.0
        self.sent: list[Send] = []
        self.slept: list[float] = []
        self._answer, self._attempt_s = answer, attempt_s

    def calls(self, timeouts: Timeouts, retries: RetryPolicy) -> Calls:
        return Calls(
            "http://s", "films", timeouts, retries, clock=lambda: self.now_s, wall_clock=lambda: 0.0, chance=lambda: 0.5
        )

    def run(self, call: Call[Any]) -> Any:
        step = next(call)
        while True:
            try:
                if isinstance(step, Sleep):
                    self.slept.append(step.seconds)
                    self.now_s += step.seconds
                    step = call.send(None)
                else:
                    self.sent.append(step)
                    self.now_s += min(self._attempt_s, step.attempt_s or self._attempt_s)
                    step = call.send(self._answer(step))
            except StopIteration as end:
                return end.value


def _timeout_ms(send: Send) -> float:
    document = orjson.loads(send.content[: int(send.headers[JSON_LENGTH])])
    value: float = document["parameters"]["timeout_ms"]
    return value


def test_each_attempt_tells_the_server_what_is_left_of_the_time() -> None:
    world = World(lambda send: BUSY, attempt_s=4.0)
    calls = world.calls(Timeouts(attempt_s=5.0, total_s=10.0), RetryPolicy(first_wait_s=1.0))
    with pytest.raises(ServerBusyError):
        world.run(calls.score(FILMS, None, None, True, None))
    assert world.slept == [0.5, 1.0]
    assert [_timeout_ms(send) for send in world.sent] == [5000, 5000, 500]
    assert [send.attempt_s for send in world.sent] == [5.0, 5.0, 0.5]


def test_a_wait_until_ready_gives_its_last_attempt_only_what_is_left() -> None:
    world = World(lambda send: ServerUnavailableError("silent", retryable=True), attempt_s=100.0)
    calls = world.calls(Timeouts(attempt_s=5.0), RetryPolicy())
    with pytest.raises(ServerUnavailableError, match="not ready within 12 s: silent"):
        world.run(calls.wait_until_ready(12.0))
    assert [send.attempt_s for send in world.sent] == pytest.approx([5.0, 5.0, 1.6])
    assert world.now_s == pytest.approx(12.0)


def test_a_wait_of_no_time_asks_once() -> None:
    world = World(lambda send: Reply(200, {}, b"{}"), attempt_s=0.0)
    world.run(world.calls(Timeouts(), RetryPolicy()).wait_until_ready(0.0))
    assert len(world.sent) == 1

"""What a client does for each of its calls, as generators that do no I/O: they yield what to do and are sent what came.

:class:`rillet.serving.client.Client` and :class:`rillet.serving.client.AsyncClient` run the same generators, each with
its own way to send and to sleep. The idea is that of "sans-I/O" protocol libraries such as h11.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rillet.serving.client.attempts import Attempts, RetryPolicy, Timeouts
from rillet.serving.client.candidates import Candidates
from rillet.serving.client.errors import ClientError, DeadlineExceededError, ServerUnavailableError
from rillet.serving.client.exchanges import (
    Exchange,
    ModelMetadata,
    Reply,
    Scores,
    metadata_exchange,
    read_reply,
    ready_exchange,
    score_exchange,
)

_READY_POLL_S = 0.2
#: Of a wait until ready: even one of no time asks once.
_SHORTEST_S = 0.001
_ONCE = RetryPolicy(attempts=1)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Send:
    """One attempt to be made.

    :param connect_s: limit on connecting, seconds; None for none.
    :param attempt_s: limit on the whole attempt, seconds; None for none.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes
    connect_s: float | None
    attempt_s: float | None

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause of so many seconds."""

    seconds: float


#: Is sent the reply to each :class:`Send`, or why there is none, and None after each :class:`Sleep`.
Call = Generator[Send | Sleep, Any, Result]


class Calls:
    """The calls of a client, about one model at one address."""

    def __init__(
        self,
        address: str,
        model: str,
        timeouts: Timeouts,
        retries: RetryPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """
        :param clock: monotonic seconds.
        :param wall_clock: seconds since 1970.
        :param chance: uniform in [0, 1), for the jitter.
        """
        self._address, self._model = address, model
        self._timeouts, self._retries = timeouts, retries
        self._clock, self._wall_clock, self._chance = clock, wall_clock, chance

    def score(
        self,
        candidates: Candidates,
        request_id: str | None,
        event_time_ms: int | None,
        log: bool,
        timeout_ms: float | None,
    ) -> Call[Scores]:
        """See :meth:`rillet.serving.client.Client.score`."""
        return self._attempts(
            score_exchange(
                self._model,
                candidates,
                request_id=request_id,
                event_time_ms=event_time_ms,
                log=log,
                timeout_ms=timeout_ms,
            ),
            self._timeouts,
            self._retries,
        )

    def metadata(self) -> Call[ModelMetadata]:
        """See :meth:`rillet.serving.client.Client.metadata`."""
        return self._attempts(metadata_exchange(self._model), self._timeouts, self._retries)

    def ready(self) -> Call[bool]:
        """See :meth:`rillet.serving.client.Client.ready`."""
        try:
            return (yield from self._attempts(ready_exchange(self._model), self._timeouts, _ONCE))
        except ServerUnavailableError:
            return False

    def wait_until_ready(self, timeout_s: float) -> Call[None]:
        """See :meth:`rillet.serving.client.Client.wait_until_ready`."""
        exchange = ready_exchange(self._model)
        timeouts = replace(self._timeouts, total_s=max(timeout_s, _SHORTEST_S))
        deadline_s = self._clock() + timeout_s
        while True:
            try:
                yield from self._attempts(exchange, timeouts, _ONCE)
                return
            except (ServerUnavailableError, DeadlineExceededError) as error:
                left_s = deadline_s - self._clock() - _READY_POLL_S
                if left_s <= 0:
                    raise ServerUnavailableError(f"not ready within {timeout_s:g} s: {error}") from error
            yield Sleep(_READY_POLL_S)
            timeouts = replace(timeouts, total_s=max(left_s, _SHORTEST_S))

    def _attempts(self, exchange: Exchange[Result], timeouts: Timeouts, policy: RetryPolicy) -> Call[Result]:
        url = self._address + exchange.path
        attempts = Attempts(timeouts, policy, self._clock())
        while True:
            connect_s, attempt_s = attempts.begin(self._clock())
            headers, content = exchange.encode(attempt_s)
            answer: Reply | ClientError = yield Send(exchange.method, url, headers, content, connect_s, attempt_s)
            try:
                if isinstance(answer, ClientError):
                    raise answer
                return read_reply(exchange, url, replace(answer, attempts=attempts.count), self._wall_clock())
            except ClientError as error:
                wait_s = attempts.wait_s(error, self._clock(), self._chance())
            yield Sleep(wait_s)

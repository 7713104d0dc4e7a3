"""The client for asyncio: sends exchanges, sleeps between attempts."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from rillet.serving.client import transport as http
from rillet.serving.client.attempts import Attempts, RetryPolicy, Timeouts
from rillet.serving.client.candidates import Candidates
from rillet.serving.client.errors import ClientError, DeadlineExceededError, ServerUnavailableError
from rillet.serving.client.exchanges import (
    Exchange,
    ModelMetadata,
    Scores,
    metadata_exchange,
    read_reply,
    ready_exchange,
    score_exchange,
)

_READY_POLL_S = 0.2
_ONCE = RetryPolicy(attempts=1)
Result = TypeVar("Result")


class AsyncClient:
    """:class:`rillet.serving.client.Client` for asyncio: the same calls, awaited; of one event loop."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # immutable
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008  # immutable
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As :class:`rillet.serving.client.Client`; ``timeouts.attempt_s`` bounds an attempt as a whole."""
        self._url, self._model = http.checked_url(url), model
        self._timeouts, self._retries = timeouts, retries
        self._http = httpx2.AsyncClient(
            headers=dict(headers or {}), limits=http.limits(max_connections), transport=transport, trust_env=False
        )

    async def score(
        self,
        candidates: Candidates,
        *,
        request_id: str | None = None,
        event_time_ms: int | None = None,
        log: bool = True,
        timeout_ms: float | None = None,
    ) -> Scores:
        """See :meth:`rillet.serving.client.Client.score`."""
        return await self._call(
            score_exchange(
                self._model,
                candidates,
                request_id=request_id,
                event_time_ms=event_time_ms,
                log=log,
                timeout_ms=timeout_ms,
            ),
            self._retries,
        )

    async def metadata(self) -> ModelMetadata:
        """See :meth:`rillet.serving.client.Client.metadata`."""
        return await self._call(metadata_exchange(self._model), self._retries)

    async def ready(self) -> bool:
        """See :meth:`rillet.serving.client.Client.ready`."""
        try:
            return await self._call(ready_exchange(self._model), _ONCE)
        except ServerUnavailableError:
            return False

    async def wait_until_ready(self, timeout_s: float) -> None:
        """See :meth:`rillet.serving.client.Client.wait_until_ready`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                await self._call(ready_exchange(self._model), _ONCE)
                return
            except (ServerUnavailableError, DeadlineExceededError) as error:
                if time.monotonic() + _READY_POLL_S > deadline_s:
                    raise ServerUnavailableError(f"not ready within {timeout_s:g} s: {error}") from error
            await asyncio.sleep(_READY_POLL_S)

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, exchange: Exchange[Result], policy: RetryPolicy) -> Result:
        url = self._url + exchange.path
        attempts = Attempts(self._timeouts, policy, time.monotonic())
        while True:
            attempt_s = attempts.begin(time.monotonic())
            try:
                # httpx2 bounds each wait for the socket; this bounds the attempt.
                async with asyncio.timeout(attempt_s):
                    response = await self._http.request(
                        exchange.method,
                        url,
                        content=exchange.content,
                        headers=exchange.headers,
                        timeout=http.timeout(self._timeouts.connect_s, attempt_s),
                    )
                return read_reply(exchange, url, http.reply(response, attempts.count), time.time())
            except (httpx2.TransportError, TimeoutError) as error:
                failure = http.failure(exchange, url, error)
            except ClientError as error:
                failure = error
            await asyncio.sleep(attempts.wait_s(failure, time.monotonic(), random.random()))

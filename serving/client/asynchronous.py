"""The client for asyncio: runs the calls with an asynchronous connection pool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from rillet.schemas import ClosedError
from rillet.serving.client import transport as http
from rillet.serving.client.attempts import RetryPolicy, Timeouts
from rillet.serving.client.calls import Call, Calls, Send, Sleep
from rillet.serving.client.candidates import Candidates
from rillet.serving.client.errors import ClientError
from rillet.serving.client.exchanges import ModelMetadata, Reply, Scores, model_path

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
        """As :class:`rillet.serving.client.Client`."""
        self._calls = Calls(http.checked_address(url, model_path(model)), model, timeouts, retries)
        self._http = httpx2.AsyncClient(
            headers=http.checked_headers(headers),
            limits=http.limits(max_connections),
            transport=transport,
            trust_env=False,
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
        return await self._run(self._calls.score(candidates, request_id, event_time_ms, log, timeout_ms))

    async def metadata(self) -> ModelMetadata:
        """See :meth:`rillet.serving.client.Client.metadata`."""
        return await self._run(self._calls.metadata())

    async def ready(self) -> bool:
        """See :meth:`rillet.serving.client.Client.ready`."""
        return await self._run(self._calls.ready())

    async def wait_until_ready(self, timeout_s: float) -> None:
        """See :meth:`rillet.serving.client.Client.wait_until_ready`."""
        await self._run(self._calls.wait_until_ready(timeout_s))

    async def close(self) -> None:
        """See :meth:`rillet.serving.client.Client.close`."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[Result]) -> Result:
        step = next(call)
        while True:
            try:
                if isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                    step = call.send(None)
                else:
                    step = call.send(await self._send(step))
            except StopIteration as end:
                result: Result = end.value
                return result

    async def _send(self, send: Send) -> Reply | ClientError:
        try:
            # httpx2 bounds each wait for the socket; this bounds the attempt.
            async with asyncio.timeout(send.attempt_s):
                response = await self._http.request(
                    send.method, send.url, content=send.content, headers=send.headers, timeout=http.timeout(send)
                )
        except (httpx2.RequestError, httpx2.InvalidURL, TimeoutError) as error:
            return http.failure(send, error)
        except RuntimeError as error:
            if not self._http.is_closed:
                raise
            raise ClosedError(f"{send}: the client is closed") from error
        return http.reply(response)

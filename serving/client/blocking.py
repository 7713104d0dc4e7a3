"""The client for threads: sends exchanges, sleeps between attempts."""

from __future__ import annotations

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


class Client:
    """Asks one server about one model. Keeps its connections; a context manager; safe to share between threads."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # immutable
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008  # immutable
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """
        :param url: of the server, without a path: ``http://127.0.0.1:8500``.
        :param timeouts: of a call. ``attempt_s`` bounds each wait for the socket: an answer that comes in pieces may
            take longer (:class:`AsyncClient` bounds the whole).
        :param retries: for a busy or absent server and lost connections. A request that the server refuses is not sent again.
        :param headers: sent with every request, for a gateway.
        :param max_connections: requests in flight at most; further ones wait.
        :param transport: stands in for the network in tests; proxies of the environment are not used.
        :raises ClientError: a ``url`` that is none.
        """
        self._url, self._model = http.checked_url(url), model
        self._timeouts, self._retries = timeouts, retries
        self._http = httpx2.Client(
            headers=dict(headers or {}), limits=http.limits(max_connections), transport=transport, trust_env=False
        )

    def score(
        self,
        candidates: Candidates,
        *,
        request_id: str | None = None,
        event_time_ms: int | None = None,
        log: bool = True,
        timeout_ms: float | None = None,
    ) -> Scores:
        """Scores candidates; the server logs their features, unless told not to, for actions to be joined with.

        :param request_id: unique per request, at most 512 characters; None makes one.
        :param event_time_ms: when the candidates are shown, ms since 1970; None is when the server gets the request.
        :param log: False for a request that no user sees.
        :param timeout_ms: the server does not begin to compute later than this after it got the request.
        :raises RequestRefusedError: the request is wrong, or the model failed on it; not retried.
        :raises ServerBusyError: the queue was full at every attempt.
        :raises ServerUnavailableError: not ready, or no connection, at the last attempt.
        :raises DeadlineExceededError: no answer within ``timeouts``, or ``timeout_ms`` passed at the server.
        :raises MalformedAnswerError: the answer does not fit the request.
        """
        return self._call(
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

    def metadata(self) -> ModelMetadata:
        """What the server says about its model; ``metadata().check_spec(spec)`` tells whether both have one spec.

        :raises ClientError: as :meth:`score`.
        """
        return self._call(metadata_exchange(self._model), self._retries)

    def ready(self) -> bool:
        """Whether the model is served now; False, too, while no server answers.

        :raises RequestRefusedError: the server serves another model.
        :raises DeadlineExceededError: no answer in time.
        """
        try:
            return self._call(ready_exchange(self._model), _ONCE)
        except ServerUnavailableError:
            return False

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns as soon as the model is served.

        :raises ServerUnavailableError: it is not within ``timeout_s``; says what the last attempt met.
        :raises RequestRefusedError: the server serves another model.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                self._call(ready_exchange(self._model), _ONCE)
                return
            except (ServerUnavailableError, DeadlineExceededError) as error:
                if time.monotonic() + _READY_POLL_S > deadline_s:
                    raise ServerUnavailableError(f"not ready within {timeout_s:g} s: {error}") from error
            time.sleep(_READY_POLL_S)

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, exchange: Exchange[Result], policy: RetryPolicy) -> Result:
        url = self._url + exchange.path
        attempts = Attempts(self._timeouts, policy, time.monotonic())
        while True:
            attempt_s = attempts.begin(time.monotonic())
            try:
                response = self._http.request(
                    exchange.method,
                    url,
                    content=exchange.content,
                    headers=exchange.headers,
                    timeout=http.timeout(self._timeouts.connect_s, attempt_s),
                )
                return read_reply(exchange, url, http.reply(response, attempts.count), time.time())
            except httpx2.TransportError as error:
                failure = http.failure(exchange, url, error)
            except ClientError as error:
                failure = error
            time.sleep(attempts.wait_s(failure, time.monotonic(), random.random()))

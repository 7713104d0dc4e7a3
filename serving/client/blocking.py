"""The client for threads: runs the calls with a blocking connection pool."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from rillet.schemas import ClosedError
from rillet.serving.client import transport as http
from rillet.serving.client.attempts import RetryPolicy, Timeouts
from rillet.serving.client.calls import Call, Calls, Send, Sleep
from rillet.serving.client.candidates import Candidates
from rillet.serving.client.deadlines import DEADLINE, DeadlineTransport
from rillet.serving.client.errors import ClientError
from rillet.serving.client.exchanges import ModelMetadata, Reply, Scores, model_path

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
        :param timeouts: of a call. Only looking up the server's name may take longer.
        :param retries: for a busy or absent server and lost connections. A request that the server refuses is not sent again.
        :param headers: sent with every request, for a gateway.
        :param max_connections: requests in flight at most; further ones wait.
        :param transport: stands in for the network in tests; proxies of the environment are not used.
        :raises ClientError: a ``url``, ``model`` or ``headers`` with which nothing can be sent.
        """
        self._calls = Calls(http.checked_address(url, model_path(model)), model, timeouts, retries)
        self._http = httpx2.Client(
            headers=http.checked_headers(headers),
            transport=transport or DeadlineTransport(http.limits(max_connections)),
            trust_env=False,
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

        Each attempt tells the server for how long its answer is waited for, so that the server drops what still waits
        in its queue then. An attempt whose scoring had begun is finished and logged nevertheless: a call that raises
        may leave the features of the request in the log, as if they had been shown, and examples without actions come
        of them. All attempts carry one request id, of which the joiner keeps one copy: who calls again for the same
        page passes the same ``request_id``.

        :param request_id: unique per request, 1 to 512 characters; None makes one.
        :param event_time_ms: when the candidates are shown, ms since 1970; None is when the server gets the request.
        :param log: False for a request that no user sees, such as one of a test or an evaluation: logged, its candidates
            count as shown and not acted on, and the model learns that.
        :param timeout_ms: the server does not begin to compute later than this after it got the request; never later
            than what is left of the attempt, which is also the default. It takes the place of the server's own
            ``default_timeout_ms``.
        :raises RecordError: an argument that no server would take.
        :raises RequestRefusedError: the request is wrong, or the model failed on it; not retried.
        :raises ServerBusyError: the queue was full at every attempt.
        :raises ServerUnavailableError: not ready, or no connection, at the last attempt.
        :raises DeadlineExceededError: no answer within ``timeouts``, or ``timeout_ms`` passed at the server.
        :raises MalformedAnswerError: the answer does not fit the request.
        """
        return self._run(self._calls.score(candidates, request_id, event_time_ms, log, timeout_ms))

    def metadata(self) -> ModelMetadata:
        """What the server says about its model; ``metadata().check_spec(spec)`` tells whether both have one spec.

        :raises ClientError: as :meth:`score`.
        """
        return self._run(self._calls.metadata())

    def ready(self) -> bool:
        """Whether the model is served now; False, too, while no server answers.

        :raises RequestRefusedError: the server serves another model.
        :raises DeadlineExceededError: no answer in time.
        """
        return self._run(self._calls.ready())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns as soon as the model is served.

        :raises ServerUnavailableError: it is not within ``timeout_s``; says what the last attempt met.
        :raises RequestRefusedError: the server serves another model.
        """
        self._run(self._calls.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Closes all connections; further calls raise ClosedError."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[Result]) -> Result:
        step = next(call)
        while True:
            try:
                if isinstance(step, Sleep):
                    time.sleep(step.seconds)
                    step = call.send(None)
                else:
                    step = call.send(self._send(step))
            except StopIteration as end:
                result: Result = end.value
                return result

    def _send(self, send: Send) -> Reply | ClientError:
        extensions = {} if send.attempt_s is None else {DEADLINE: time.monotonic() + send.attempt_s}
        try:
            response = self._http.request(
                send.method,
                send.url,
                content=send.content,
                headers=send.headers,
                timeout=http.timeout(send),
                extensions=extensions,
            )
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            return http.failure(send, error)
        except RuntimeError as error:
            if not self._http.is_closed:
                raise
            raise ClosedError(f"{send}: the client is closed") from error
        return http.reply(response)

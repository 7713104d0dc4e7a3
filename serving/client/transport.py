"""What both clients ask of httpx2: its settings, its timeouts, its exceptions as ours.

httpx2 because it has one interface for blocking and asyncio code, with transports that tests can replace.
"""

from __future__ import annotations

import math

import httpx2

from rillet.serving.client.errors import ClientError, DeadlineExceededError, ServerUnavailableError
from rillet.serving.client.exchanges import Exchange, Reply

#: Below the 75 s after which the server closes idle connections: a request never meets a connection being closed.
_IDLE_S = 60.0


def checked_url(url: str) -> str:
    """The server's address without a slash at its end.

    :raises ClientError: it does not begin with http:// or https://.
    """
    if not url.startswith(("http://", "https://")):
        raise ClientError(f"url: {url!r} is no address of a server, as http://127.0.0.1:8500 is")
    return url.rstrip("/")


def limits(max_connections: int) -> httpx2.Limits:
    """All connections stay open for the next request."""
    return httpx2.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=_IDLE_S
    )


def timeout(connect_s: float, attempt_s: float | None) -> httpx2.Timeout:
    """The limits of one attempt in seconds; ``attempt_s`` None is no limit but that on connecting."""
    connect = connect_s if attempt_s is None else min(connect_s, attempt_s)
    return httpx2.Timeout(attempt_s, connect=None if connect == math.inf else connect)


def reply(response: httpx2.Response, attempts: int) -> Reply:
    """The response as the exchanges read it."""
    return Reply(response.status_code, response.headers, response.content, attempts)


def failure(exchange: Exchange[object], url: str, error: httpx2.TransportError | TimeoutError) -> ClientError:
    """Why an attempt got no response; another one may."""
    what = f"{exchange.method} {url}"
    if isinstance(error, httpx2.PoolTimeout):
        return DeadlineExceededError(
            f"{what}: no connection became free in time; raise max_connections or send fewer requests at once",
            retryable=True,
        )
    # Not to have got a connection in time is the server's absence, not its slowness.
    if isinstance(error, httpx2.TimeoutException | TimeoutError) and not isinstance(error, httpx2.ConnectTimeout):
        return DeadlineExceededError(f"{what}: no answer in time", retryable=True)
    return ServerUnavailableError(f"{what}: no connection ({error or type(error).__name__})", retryable=True)

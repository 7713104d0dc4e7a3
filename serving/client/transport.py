"""What both clients ask of httpx2: a checked address, its limits, its responses and exceptions as ours.

httpx2 because it has one interface for blocking and asyncio code, with transports that tests can replace.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from rillet.serving.client.calls import Send
from rillet.serving.client.errors import (
    ClientError,
    DeadlineExceededError,
    MalformedAnswerError,
    ServerUnavailableError,
)
from rillet.serving.client.exchanges import Reply

#: Below the 75 s after which the server closes idle connections: a request never meets a connection being closed.
_IDLE_S = 60.0


def checked_address(url: str, path: str) -> str:
    """The server's address without a slash at its end.

    :param path: what will be asked for there.
    :raises ClientError: no request can be sent there.
    """
    try:
        parsed = httpx2.URL(url)
        parsed.raw_host.decode("ascii").encode("idna")  # as the resolver will
        httpx2.URL(url.rstrip("/") + path)
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise ClientError(f"url: {url!r} is not the address of a server: {error}") from error
    if parsed.userinfo:
        raise ClientError("url: has a user name or a password in it; send an Authorization header instead")
    if (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or "%" in parsed.host
        or parsed.query
        or parsed.fragment
        or (parsed.port is not None and not 0 < parsed.port < 1 << 16)
    ):
        raise ClientError(f"url: {url!r} is not the address of a server, such as http://127.0.0.1:8500")
    return url.rstrip("/")


def checked_headers(headers: Mapping[str, str] | None) -> httpx2.Headers:
    """
    :raises ClientError: a name or value that no header can have.
    """
    try:
        return httpx2.Headers(dict(headers or {}))
    except (TypeError, ValueError, AttributeError) as error:
        raise ClientError(f"headers: {error}") from error


def limits(max_connections: int) -> httpx2.Limits:
    """All connections stay open for the next request."""
    return httpx2.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=_IDLE_S
    )


def timeout(send: Send) -> httpx2.Timeout:
    """The limits of one attempt, each on a single wait for the socket."""
    return httpx2.Timeout(send.attempt_s, connect=send.connect_s)


def reply(response: httpx2.Response) -> Reply:
    """The response as the exchanges read it."""
    return Reply(response.status_code, response.headers, response.content)


def failure(send: Send, error: httpx2.RequestError | httpx2.InvalidURL | TimeoutError) -> ClientError:
    """Why an attempt got no response, and whether another one may."""
    if isinstance(error, httpx2.PoolTimeout):
        return DeadlineExceededError(
            f"{send}: no connection became free in time; raise max_connections or send fewer requests at once",
            retryable=True,
        )
    # Not to have got a connection in time is the server's absence, not its slowness.
    if isinstance(error, httpx2.TimeoutException | TimeoutError) and not isinstance(error, httpx2.ConnectTimeout):
        return DeadlineExceededError(f"{send}: no answer in time", retryable=True)
    if isinstance(error, httpx2.DecodingError):
        return MalformedAnswerError(f"{send}: the answer cannot be decompressed: {error}")
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return ClientError(f"{send}: the request cannot be sent: {error}")
    return ServerUnavailableError(f"{send}: no connection ({error or type(error).__name__})", retryable=True)

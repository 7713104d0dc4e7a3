"""A transport for blocking clients that keeps one deadline for a whole attempt.

httpx2 bounds each wait for the socket: an answer that comes byte by byte never ends. Here, every wait gets what is
left until the deadline: that of the request's headers, of the answer's headers and of its body alike. Looking up the
name of a server is the one wait that cannot be bounded.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

#: Key of a request's extensions: monotonic time in seconds at which its attempt ends; None or absent for no deadline.
DEADLINE = "rillet_deadline_s"
#: Written at once: each piece gets what is left of the time.
_PIECE_BYTES = 1 << 16
#: A wait that begins at its deadline still gets this long: zero would make the socket non-blocking.
_SHORTEST_S = 0.001


class DeadlineTransport(httpx2.HTTPTransport):
    """Sends requests, each until its :data:`DEADLINE`."""

    def __init__(self, limits: httpx2.Limits) -> None:
        context = httpx2.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False, limits=limits)
        self._deadline = _Deadline()
        # httpx2 passes no network backend on to the pool that it makes; the pool itself takes one.
        self._pool.close()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(self._deadline),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        # The thread that sends a request also reads its answer, before it sends the next.
        self._deadline.at_s = request.extensions.get(DEADLINE)
        return super().handle_request(request)


class _Deadline(threading.local):
    """The deadline of the attempt that this thread makes."""

    at_s: float | None = None

    def left_s(self, timeout: float | None) -> float | None:
        """``timeout``, or what is left if that is less."""
        if self.at_s is None:
            return timeout
        left_s = max(_SHORTEST_S, self.at_s - time.monotonic())
        return left_s if timeout is None else min(left_s, timeout)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._sockets = httpcore2.SyncBackend()
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Tries the addresses of a name one after another, all of them within ``timeout``, each for its share of what is left.

        The backend would give each of them all of it: two that do not answer would take twice as long.
        """
        limit_s = self._deadline.left_s(timeout)
        if limit_s is None:
            sockets = self._sockets.connect_tcp(host, port, None, local_address, socket_options)
            return _Stream(sockets, self._deadline)
        try:
            addresses = list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port)))
        except OSError as error:
            raise httpcore2.ConnectError(f"{host}: {error}") from error
        end_s = time.monotonic() + limit_s
        for number, address in enumerate(addresses):
            share_s = max(_SHORTEST_S, end_s - time.monotonic()) / (len(addresses) - number)
            try:
                stream = self._sockets.connect_tcp(address, port, share_s, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number + 1 == len(addresses):
                    raise
            else:
                return _Stream(stream, self._deadline)
        raise httpcore2.ConnectError(f"{host} has no address")


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._checked(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE_BYTES):
            left_s = self._checked(timeout, httpcore2.WriteTimeout)
            self._stream.write(buffer[start : start + _PIECE_BYTES], left_s)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s(timeout))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _checked(self, timeout: float | None, kind: type[Exception]) -> float | None:
        """:raises Exception: of ``kind``, once the deadline has passed: bytes that are already there end no wait."""
        at_s = self._deadline.at_s
        if at_s is not None and time.monotonic() >= at_s:
            raise kind("the attempt's deadline passed")
        return self._deadline.left_s(timeout)

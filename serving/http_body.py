"""The body of an ASGI request as bytes, bounded in size and time, and what is known of it and of its client besides."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Message, Receive, Scope

from rillet.serving.errors import (
    BodiesFullError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    InvalidRequestError,
    NotReadyError,
)

#: far below what makes a server stop reading until it is asked for more: 64 KiB in uvicorn
_LARGE_PIECE_BYTES = 16 * 1024


class Bodies:
    """The bodies of all requests of one event loop: each has its bounds, and so have all together."""

    def __init__(self, max_body_bytes: int, max_bodies_bytes: int, timeout_s: float) -> None:
        """:param timeout_s: how long one may take to arrive."""
        self.max_body_bytes = max_body_bytes
        self.max_bodies_bytes = max_bodies_bytes
        self.timeout_s = timeout_s
        #: bytes of bodies that are read or whose requests are not answered yet
        self.held_bytes = 0


class Body:
    """The body of one request. It counts among those held until the end of its ``with`` block."""

    def __init__(self, bodies: Bodies, scope: Scope) -> None:
        self._bodies = bodies
        self._scope = scope
        self._held_bytes = 0
        #: whether all of it was read
        self.complete = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.held_bytes -= self._held_bytes

    @property
    def waits(self) -> bool:
        """Whether the client may have held it back until told to send it (``Expect``)."""
        return not self.complete and any(name == b"expect" for name, _ in self._scope["headers"])

    def json_length_header(self) -> str | None:
        """The Inference-Header-Content-Length header, None when there is none.

        :raises InvalidRequestError: the body is compressed.
        :raises BodyTooLargeError: its announced length says so.
        """
        json_length: str | None = None
        for name, value in self._scope["headers"]:
            if name == b"inference-header-content-length":
                json_length = value.decode("latin-1")
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise InvalidRequestError("Content-Encoding", f"{value[:40].decode('latin-1')} is not accepted")
            elif name == b"content-length":
                self._check_size(int(value))
        return json_length

    async def read(self, receive: Receive) -> bytes:
        """All of it.

        :raises BodyTooLargeError: more than ``max_body_bytes``.
        :raises BodiesFullError: with it, all bodies exceed ``max_bodies_bytes``.
        :raises BodyTimeoutError: it was not there in time.
        :raises NotReadyError: nor was it when the server stopped.
        :raises ClientGoneError: the client closed the connection within it, or right after it.
        """
        # A small body has come with its head: waiting for it, and a limit for that, would cost more than reading it.
        first = _at_hand(receive)
        if first is not None and not first.get("more_body", False):
            self._take(first)
            return self._whole(receive, [first.get("body", b"")])
        try:
            async with asyncio.timeout(self._bodies.timeout_s):
                return await self._read(receive, first)
        except TimeoutError as error:
            raise BodyTimeoutError(f"the body did not arrive within {self._bodies.timeout_s:g} s") from error
        # Only a server that ends cancels its requests, and their clients shall know why.
        except asyncio.CancelledError as error:
            raise NotReadyError("the server stopped before the body had arrived") from error

    async def _read(self, receive: Receive, message: Message | None) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = message or await receive()
            self._take(message)
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                return self._whole(receive, chunks)
            message = None

    def _take(self, message: Message) -> None:
        """Counts a piece."""
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed the connection within the body")
        bodies, size = self._bodies, len(message.get("body", b""))
        self._check_size(self._held_bytes + size)
        if bodies.held_bytes + size > bodies.max_bodies_bytes:
            raise BodiesFullError(
                f"{bodies.held_bytes} bytes of bodies are held, of max_bodies_bytes = {bodies.max_bodies_bytes};"
                " retry later"
            )
        self._held_bytes += size
        bodies.held_bytes += size

    def _whole(self, receive: Receive, chunks: list[bytes]) -> bytes:
        self.complete = True
        # After a large piece the server reads on only when it is asked, and would not notice that the client goes.
        if len(chunks[-1]) > _LARGE_PIECE_BYTES and is_gone(receive):
            raise ClientGoneError("the client closed the connection")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check_size(self, size: int) -> None:
        if size > self._bodies.max_body_bytes:
            raise BodyTooLargeError(f"the body is larger than max_body_bytes = {self._bodies.max_body_bytes}")


def is_gone(receive: Receive) -> bool:
    """Whether the client of a request whose body was read has closed its connection; asked without waiting."""
    message = _at_hand(receive)
    return message is not None and message["type"] == "http.disconnect"


def _at_hand(receive: Receive) -> Message | None:
    """What has come already; asked without waiting."""
    asked = receive().__await__()
    try:
        next(asked)
    except StopIteration as said:
        message: Message = said.value
        return message
    asked.close()  # a wait for what has not come yet
    return None

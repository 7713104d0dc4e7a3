"""The body of an ASGI request as bytes, bounded, and the headers that say how to read it."""

from __future__ import annotations

from starlette.types import Receive, Scope

from rillet.serving.errors import BodyTooLargeError, InvalidRequestError


def json_length_header(scope: Scope) -> str | None:
    """The Inference-Header-Content-Length header, None when there is none.

    :raises InvalidRequestError: the body is compressed.
    """
    json_length: str | None = None
    for name, value in scope["headers"]:
        if name == b"inference-header-content-length":
            json_length = value.decode("latin-1")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise InvalidRequestError("Content-Encoding", f"{value[:40].decode('latin-1')} is not accepted")
    return json_length


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    :param limit: bytes.
    :raises BodyTooLargeError: more than ``limit`` bytes.
    :raises InvalidRequestError: the client closed the connection within it.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequestError("body", "the client closed the connection within it")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"the body is larger than max_body_bytes = {limit}")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)

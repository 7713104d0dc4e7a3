"""A schema registry on a socket: the part of Confluent's REST interface that is asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import fastavro


class Registry:
    """Answers by path; an integer is a status, with a document for 404 alone."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = ""

    def add(self, schema_id: int, schema: Any, **more: Any) -> None:
        self.answers[f"/schemas/ids/{schema_id}"] = {"schema": json.dumps(schema), **more}


@contextmanager
def registry_server(port: int = 0) -> Iterator[Registry]:
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.asked.append(self.path)
            found = registry.answers.get(self.path, 404)
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            if found == 404:
                found = {"error_code": 40403, "message": "Schema not found"}
            if not isinstance(found, int):
                self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def avro(schema: Any, value: Any) -> bytes:
    """Plain Avro."""
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def framed(schema_id: int, schema: Any, value: Any) -> bytes:
    """Avro as a registry's serializer writes it."""
    return b"\0" + schema_id.to_bytes(4, "big") + avro(schema, value)

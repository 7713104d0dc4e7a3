"""Liveness, readiness and metrics of a service that has no HTTP server of its own: joiner and trainer.

Runs on a daemon thread beside the service's loop. Path names follow Kubernetes' API server
(`/healthz`, `/readyz`); `/metrics` is the Prometheus text format.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from rillet.jobs.errors import PortInUseError

#: how soon the server's thread notices that it is to end
_POLL_S = 0.1
#: after which a connection that sends nothing is closed
_SILENCE_S = 10.0


class HealthServer:
    """Answers ``/healthz`` (200 while the process lives), ``/readyz`` (503 until ready) and ``/metrics``."""

    def __init__(
        self,
        port: int,
        is_ready: Callable[[], bool],
        *,
        host: str = "127.0.0.1",
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """
        :param port: TCP port, 0 switches it off.
        :param is_ready: asked at each request, on another thread.
        """
        #: the port that is listened on, 0 when it is switched off
        self.port = port
        self._host = host
        self._is_ready = is_ready
        self._registry = registry
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Starts to answer.

        :raises PortInUseError: the port is taken.
        """
        if self.port == 0:
            return
        try:
            server = _Server6 if ":" in self._host else ThreadingHTTPServer
            self._server = server((self._host, self.port), _handler(self._is_ready, self._registry))
        except OSError as error:
            raise PortInUseError(
                f"port {self.port} on {self._host} cannot be listened on ({error.strerror}): choose another in"
                " [health], 0 is off"
            ) from error
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="health", daemon=True).start()

    def close(self) -> None:
        """Stops answering and frees the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def _handler(is_ready: Callable[[], bool], registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        #: each connection has a thread: one that says nothing gives it back
        timeout = _SILENCE_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._answer(200, b"ok\n")
            elif path == "/readyz":
                ready = is_ready()
                self._answer(200 if ready else 503, b"ready\n" if ready else b"not ready\n")
            elif path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            else:
                self._answer(404, b"known paths: /healthz /readyz /metrics\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  overrides http.server's
            """Probes come every few seconds: they are not logged."""

    return Handler

"""Liveness, readiness and metrics of a service that has no HTTP server of its own: joiner and trainer.

Runs on a daemon thread beside the service's loop. Path names follow Kubernetes' API server
(`/healthz`, `/readyz`); `/metrics` is the Prometheus text format.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from rillet.jobs.errors import PortInUseError

#: how soon the server's thread notices that it is to end
_POLL_S = 0.1


class HealthServer:
    """The running endpoint; ``port`` is 0 when it is switched off."""

    def __init__(self, server: ThreadingHTTPServer | None) -> None:
        self._server = server
        self.port: int = server.server_address[1] if server else 0
        if server:
            threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="health", daemon=True).start()

    def close(self) -> None:
        """Stops answering and frees the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()


def start_health_server(
    port: int, is_ready: Callable[[], bool], *, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY
) -> HealthServer:
    """Starts answering ``/healthz`` (200 while the process lives), ``/readyz`` (503 until ready) and ``/metrics``.

    :param port: 0 switches it off.
    :param is_ready: asked at each request, on another thread.
    :raises PortInUseError: the port is taken.
    """
    if port == 0:
        return HealthServer(None)

    class Handler(BaseHTTPRequestHandler):
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

    try:
        return HealthServer(ThreadingHTTPServer((host, port), Handler))
    except OSError as error:
        raise PortInUseError(
            f"port {port} on {host} cannot be listened on ({error.strerror}): choose another in [health], 0 is off"
        ) from error

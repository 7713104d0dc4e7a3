"""One process's HTTP server: uvicorn on a thread of its own. What is served, and how a stop goes, is in ``service``."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

import uvicorn

from rillet.schemas import FlushTimeoutError
from rillet.serving.app import InferenceApp
from rillet.serving.config import ServingConfig
from rillet.serving.errors import ServingError

log = logging.getLogger(__name__)

_BACKLOG = 2048
_POLL_S = 0.005
_START_TIMEOUT_S = 30.0
#: closing connections takes no longer, unless a handler blocks the event loop
_CLOSE_TIMEOUT_S = 2.0


class InferenceServer:
    """Listens and answers from :meth:`start` to :meth:`close`."""

    def __init__(
        self, app: InferenceApp, config: ServingConfig, on_failure: Callable[[BaseException], None] = lambda error: None
    ) -> None:
        """:param on_failure: called on the server's thread when it ends by itself."""
        #: the port listened on: the configured one, and from :meth:`start` on the free one that was taken for 0
        self.port = config.port
        self._app = app
        self._config = config
        self._on_failure = on_failure
        self._socket: socket.socket | None = None
        self._closing = False
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=75,
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Listens, and returns once requests are answered.

        :raises ServingError: the address cannot be listened on, or the server did not come up.
        """
        host, port = self._config.host, self._config.port
        try:
            if ":" in host:
                # "::" is every address of either version, as people expect of it.
                version6, both = socket.AF_INET6, host == "::"
                self._socket = socket.create_server(
                    (host, port), family=version6, backlog=_BACKLOG, dualstack_ipv6=both
                )
            else:
                self._socket = socket.create_server((host, port), backlog=_BACKLOG)
        except OSError as error:
            raise ServingError(
                f"cannot listen on {host}:{port} ({error.strerror}): set serving.host and serving.port"
            ) from error
        self.port = self._socket.getsockname()[1]
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise ServingError(f"the HTTP server on {host}:{self.port} did not start; the log says why")
            time.sleep(_POLL_S)

    def flush(self, timeout_s: float) -> None:
        """Returns once no request is in flight. More may come: ``Engine.refuse`` ends that.

        :raises FlushTimeoutError: some are, after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while in_flight := self._app.in_flight:
            if time.monotonic() > deadline:
                raise FlushTimeoutError(f"{in_flight} requests are in flight")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Stops listening and closes the connections, without waiting for requests in flight."""
        self._closing = True
        self._server.should_exit = self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("the HTTP server did not end within %.0f s: its thread ends with the process", _CLOSE_TIMEOUT_S)
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        assert self._socket is not None  # noqa: S101  # set before the thread starts
        try:
            self._server.run(sockets=[self._socket])
        # Handed to the owner: a process whose server is gone must not go on as if it served.
        except BaseException as error:
            self._end(error)
        else:
            self._end(ServingError("the HTTP server ended by itself"))

    def _end(self, error: BaseException) -> None:
        if not self._closing:
            log.error("the HTTP server failed: %s: %s", type(error).__name__, error)
            self._on_failure(error)

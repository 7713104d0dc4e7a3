"""One process's HTTP server: uvicorn in the calling thread, the engine's batcher beside it, a graceful end.

SIGTERM or SIGINT (or :meth:`InferenceServer.stop`): not ready, no new connections, requests in flight are answered,
then the batcher ends. Feature log and replica are their owner's to close afterwards.
"""

from __future__ import annotations

import logging
import socket
from asyncio import get_running_loop, to_thread

import uvicorn

from rillet.serving.app import InferenceApp
from rillet.serving.config import ServingConfig
from rillet.serving.engine import Engine
from rillet.serving.errors import ServingError

log = logging.getLogger(__name__)

_BACKLOG = 2048


class InferenceServer:
    """Listens from construction on, answers from :meth:`run` on."""

    def __init__(self, app: InferenceApp, engine: Engine, config: ServingConfig) -> None:
        """
        :raises ServingError: the address cannot be listened on.
        """
        try:
            self._socket = socket.create_server((config.host, config.port), backlog=_BACKLOG)
        except OSError as error:
            raise ServingError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror}): set serving.host and serving.port"
            ) from error
        #: the port listened on, also when the configuration says 0
        self.port: int = self._socket.getsockname()[1]
        settings = uvicorn.Config(
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
            timeout_graceful_shutdown=max(1, round(config.drain_timeout_s)),
        )
        self._server = _Server(settings, engine, config.drain_timeout_s)

    def run(self) -> None:
        """Serves until a signal (in the main thread) or :meth:`stop`.

        uvicorn raises a captured signal again after it has shut down: have a handler of your own for it.
        """
        self._server.run(sockets=[self._socket])

    @property
    def started(self) -> bool:
        """Whether requests are answered."""
        return self._server.started

    def stop(self) -> None:
        """Asks :meth:`run` to end gracefully; callable from any thread or signal handler."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Starts and ends the engine with the loop that its results go to."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_timeout_s = drain_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.start(get_running_loop())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: answering the requests in flight")
        self._engine.refuse()
        await super().shutdown(sockets)
        await to_thread(self._engine.stop, self._drain_timeout_s)

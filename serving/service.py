"""A serving process put together: the order in which its stages start and end, and what ends it.

SIGTERM as Kubernetes means it: not ready any more, new requests get 503, those in flight are answered, the feature
log is flushed; then everything is released.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from rillet.schemas import RilletError, Stage
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder
from rillet.serving.server import InferenceServer

log = logging.getLogger("rillet.serve")


class InferenceService:
    """Engine, feature log and HTTP server of one process, and what keeps its model up to date."""

    def __init__(
        self,
        *,
        engine: Engine,
        server: InferenceServer,
        recorder: FeatureRecorder,
        updates: Sequence[Stage] = (),
        drain_timeout_s: float,
    ) -> None:
        """
        :param updates: stages that change the served model; they start last and end first.
        :param drain_timeout_s: how long a stop waits for the requests in flight, and again for the feature log.
        """
        self.engine = engine
        self.server = server
        self._recorder = recorder
        self._updates = updates
        self._drain_timeout_s = drain_timeout_s
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Asks :meth:`run` to end; callable from any thread or signal handler."""
        self._stopping.set()

    def fail(self, error: BaseException) -> None:
        """Ends :meth:`run` with ``error``: for stages whose thread failed."""
        self._failure = self._failure or error
        self._stopping.set()

    def run(self, on_started: Callable[[], None] = lambda: None) -> bool:
        """Starts everything, serves until :meth:`stop`, ends everything. Blocks.

        :param on_started: called once requests are answered.
        :returns: whether every request in flight was answered and the feature log is complete. What is missing is
            logged.
        :raises ServingError: the address cannot be listened on.
        :raises Exception: what was given to :meth:`fail`.
        """
        try:
            self.engine.start()
            self._recorder.start()
            self.server.start()
            for stage in self._updates:
                stage.start()
            on_started()
            self._stopping.wait()
            complete = self._drain()
        finally:
            self.close()
        if self._failure is not None:
            raise self._failure
        return complete

    def close(self) -> None:
        """Releases everything without waiting for requests in flight or the feature log."""
        for stage in self._updates:
            stage.close()
        self.engine.close()  # before the server: what is still queued is answered with 503
        self.server.close()
        self._recorder.close()

    def _drain(self) -> bool:
        log.info("stopping: answering the requests in flight")
        self.engine.refuse()
        complete = True
        for what, stage in (("requests", self.server), ("feature log", self._recorder)):
            try:
                stage.flush(self._drain_timeout_s)
            except RilletError as error:
                log.error("%s: not all of it is done at the stop: %s", what, error)
                complete = False
        return complete

"""A serving process put together: the order in which its stages start and end, and what ends it.

SIGTERM as Kubernetes means it: not ready any more, and still serving until load balancers have noticed; then new requests
get 503, those in flight are answered, the server ends, and what it served until then is flushed to the feature log. One
deadline holds for all that comes after the notice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from rillet.schemas import FlushTimeoutError, RilletError, Stage, StageGroup
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder
from rillet.serving.server import InferenceServer

log = logging.getLogger(__name__)

#: share of the drain's time that requests in flight may take; the rest is the feature log's
_REQUESTS_SHARE = 0.75
#: how often a flush looks whether it is to be cut short
_FLUSH_SLICE_S = 0.1
#: for the answers of requests that were given up to reach their clients
_ANSWERS_S = 0.2


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
        notice_s: float = 0.0,
    ) -> None:
        """
        :param updates: stages that change the served model; they start last and end first.
        :param drain_timeout_s: how long a stop waits for the requests in flight and for the feature log, together.
        :param notice_s: how long requests are served on before that, while the readiness probe says no.
        """
        self.engine = engine
        self.server = server
        self._recorder = recorder
        self._updates = updates
        # Ended in reverse: what is still queued in the engine is answered, and what the server still served is logged.
        self._stages = StageGroup([recorder, server, engine, *updates])
        self._drain_timeout_s = drain_timeout_s
        self._notice_s = notice_s
        self._stopping = threading.Event()
        #: set by the first stop; a failure sets only ``_stopping``
        self._asked = threading.Event()
        #: set by the second stop
        self._at_once = threading.Event()
        #: set by the second stop, and by a failure: nobody is served any more
        self._notice_over = threading.Event()
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Asks :meth:`run` to end; callable from any thread or signal handler. Asked twice, it waits for nothing more."""
        if self._asked.is_set():
            self._at_once.set()
            self._notice_over.set()
        self._asked.set()
        self._stopping.set()

    def fail(self, error: BaseException) -> None:
        """Ends :meth:`run` with ``error``: for stages whose thread failed."""
        self._failure = self._failure or error
        self._notice_over.set()
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
            self._stages.start()
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
        self._stages.close()

    def _drain(self) -> bool:
        """Gives notice, refuses what is new, answers what is in flight, ends engine and server, flushes what they logged."""
        self.engine.withdraw()
        if self._notice_s and not self._notice_over.is_set():
            log.info("stopping: not ready any more; requests are served for another %g s", self._notice_s)
            self._notice_over.wait(self._notice_s)
        log.info("stopping: answering the requests in flight")
        deadline = time.monotonic() + self._drain_timeout_s
        for_requests = deadline - (1 - _REQUESTS_SHARE) * self._drain_timeout_s
        self.engine.refuse()
        for stage in self._updates:
            stage.close()
        answered = self._flush("requests", self.server.flush, for_requests)
        self.engine.close()
        if not answered:
            # The engine has just given up the rest: time for those answers to leave.
            self._wait_for_answers()
        self.server.close()
        # Nobody submits any more.
        return self._flush("feature log", self._recorder.flush, deadline) and answered

    def _flush(self, what: str, flush: Callable[[float], None], deadline: float) -> bool:
        """Whether everything submitted was delivered by ``deadline``, in seconds of the monotonic clock."""
        while True:
            left = 0.0 if self._at_once.is_set() else max(deadline - time.monotonic(), 0.0)
            try:
                flush(min(left, _FLUSH_SLICE_S))
            except FlushTimeoutError as error:
                if left > 0:
                    continue
                return _incomplete(what, error)
            except RilletError as error:
                return _incomplete(what, error)
            return True

    def _wait_for_answers(self) -> None:
        with suppress(FlushTimeoutError):
            self.server.flush(_ANSWERS_S)


def _incomplete(what: str, error: RilletError) -> bool:
    log.error("%s: not all of it is done at the stop: %s", what, error)
    return False

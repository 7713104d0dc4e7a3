"""The state of a Flink job that runs beside: whether it is ready, why it restarts, and how it ended."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rillet.connectors.flink_metrics import innermost_cause
from rillet.joiner import JoinerRun
from rillet.pipelines.errors import JobFailedError

log = logging.getLogger(__name__)

#: without a checkpoint, until the joiner is no longer ready; or four intervals, if that is more
_PATIENCE_S = 10.0
#: the same for the first checkpoint of a start
_START_PATIENCE_S = 60.0


class JobWatch:
    """Asks a job's state without blocking signals, and explains a failure in one line."""

    def __init__(
        self,
        client: Any,
        run: JoinerRun,
        interval_ms: int,
        flink_log: Path,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param client: PyFlink's client of the job.
        :param interval_ms: between two checkpoints.
        :param flink_log: Flink's own.
        """
        self._run, self._flink_log, self._now_s = run, flink_log, now_s
        self._patience_s = max(_PATIENCE_S, 4 * interval_ms / 1_000)
        #: the newest complete checkpoint, and when it was first seen
        self._newest: tuple[Path, float] | None = None
        self._told_ready: bool | None = None
        #: when it is told that the first checkpoint is not there yet; infinite once it was told
        self._first_due_s = now_s() + max(_START_PATIENCE_S, self._patience_s)
        #: ended on purpose, which Flink tells as a failure
        self.cancelled = False
        self._result = client.get_job_execution_result()

    def running(self) -> bool:
        """Whether the job's tasks run. Flink calls a job running before they do, so: whether one checkpoint is there."""
        return bool(self._run.checkpoints) and not self._result.done()

    def ready(self) -> bool:
        """Whether checkpoints are completed: the broker takes what is written. Asked now and then, from any thread."""
        now, newest, found = self._now_s(), self._newest, self._run.checkpoints
        if found and (newest is None or found[-1] != newest[0]):
            self._newest = newest = found[-1], now
        return newest is not None and now - newest[1] <= self._patience_s and not self._result.done()

    def tell(self) -> None:
        """Logs when checkpoints do not begin or stop to be completed, and when they go on."""
        ready, before = self.ready(), self._told_ready
        if before is None and not ready and self._now_s() >= self._first_due_s and not self._result.done():
            self._first_due_s = math.inf
            log.warning(
                "no checkpoint has been completed since the start, so no row goes out; what Flink does is in %s",
                self._flink_log,
            )
        if ready == before or (before is None and not ready):
            return
        self._told_ready = ready
        if not ready and not self._result.done():
            log.warning(
                "no checkpoint has been completed for %.0f s, so no row goes out: is the broker there?",
                self._patience_s,
            )
        elif before is not None:
            log.info("checkpoints are completed again")

    def finished(self, wait_s: float) -> bool:
        """Whether the job has ended, after at most ``wait_s``."""
        if not self._result.done():
            threading.Event().wait(wait_s)
        return bool(self._result.done())

    def raise_failure(self) -> None:
        """
        :raises JobFailedError: the job ended by failing.
        """
        try:
            self._result.result()
        except Exception as error:
            if self.cancelled:
                return
            raise JobFailedError(f"the joiner job failed: {root_cause(error)}") from error


def root_cause(error: BaseException) -> str:
    """The innermost cause of what Java has thrown, or the error's own first line."""
    java: Any = getattr(error, "java_exception", None)
    if java is None:
        return innermost_cause(str(error))
    while java.getCause() is not None:
        java = java.getCause()
    return innermost_cause(str(java.toString()))

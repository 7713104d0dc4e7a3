"""The auto-batcher: one thread that owns the model, takes what is queued and lets updates in between batches.

Work-conserving: it never waits while requests wait, unless ``max_queue_delay_ms`` says so. Nothing else may
touch the table or the program, which is why no request sees half a row and none of it needs a lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from rillet.serving.errors import DeadlineError, NotReadyError, RequestError, ScoringError
from rillet.serving.row_queue import Job, RowQueue

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")


class BatchObserver(Protocol):
    """What the batcher tells its metrics."""

    def batch(self, jobs: int, rows: int, seconds: float) -> None:
        """A batch was computed."""

    def queue_rows(self, rows: int) -> None:
        """So many rows wait."""


class AutoBatcher(Generic[P, R]):
    """``submit`` from any thread; everything else happens on the thread that calls ``run``."""

    def __init__(
        self,
        *,
        compute: Callable[[Sequence[P]], Sequence[R]],
        between: Callable[[], bool],
        deliver: Callable[[list[tuple[Job[P, R], R | RequestError]]], None],
        queue: RowQueue[P, R],
        clock: Callable[[], float],
        observer: BatchObserver,
    ) -> None:
        """
        :param compute: payloads of one batch to their results, in order.
        :param between: one slice of background work; True when more of it is at hand.
        :param deliver: results of a batch, called once a batch.
        :param clock: monotonic seconds.
        """
        self._compute = compute
        self._between = between
        self._deliver = deliver
        self._queue = queue
        self._clock = clock
        self._observer = observer
        self._changed = threading.Condition()
        self._background = False
        self._stopping = False

    def submit(self, job: Job[P, R]) -> None:
        """Queues a job.

        :raises QueueFullError: too many rows wait.
        :raises NotReadyError: the batcher is stopping.
        """
        with self._changed:
            if self._stopping:
                raise NotReadyError("the server is stopping")
            self._queue.offer(job)
            self._changed.notify()

    def wake(self) -> None:
        """Says that there is background work; callable from any thread."""
        with self._changed:
            self._background = True
            self._changed.notify()

    def stop(self) -> None:
        """Lets ``run`` return once everything queued is answered; later jobs are refused."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Serves until :meth:`stop`."""
        while self._wait():
            self.step()

    def step(self) -> None:
        """One batch if one is due, then one slice of background work if there is some. Does not wait."""
        now = self._clock()
        with self._changed:
            due = self._queue.wait_s(now) == 0.0 or (self._stopping and len(self._queue) > 0)
            batch, expired = self._queue.take(now) if due else ([], [])
            background, self._background = self._background, False
        outcomes: list[tuple[Job[P, R], R | RequestError]] = [
            (job, DeadlineError(f"the deadline passed after {(now - job.enqueued_s) * 1e3:.1f} ms in the queue"))
            for job in expired
        ]
        if batch:
            results = self._results(batch)
            outcomes.extend(zip(batch, results, strict=True))
            self._observer.batch(len(batch), sum(job.rows for job in batch), self._clock() - now)
        if outcomes:
            self._deliver(outcomes)
            self._observer.queue_rows(self._queue.rows)
        if background and self._between():
            with self._changed:
                self._background = True

    def _wait(self) -> bool:
        """Sleeps until :meth:`step` has something to do; False when stopped and empty."""
        with self._changed:
            while True:
                wait = self._queue.wait_s(self._clock())
                if self._stopping:
                    return wait is not None
                if wait == 0.0 or self._background:
                    return True
                self._changed.wait(wait)

    def _results(self, batch: Sequence[Job[P, R]]) -> Sequence[R | RequestError]:
        try:
            return self._compute([job.payload for job in batch])
        except RequestError as error:
            return [error] * len(batch)
        # The thread must outlive whatever a model does to one batch; its requests get 500 and the log the trace.
        except Exception as error:
            log.exception("scoring a batch of %d requests failed", len(batch))
            return [ScoringError(f"the model failed: {type(error).__name__}: {error}")] * len(batch)

"""The auto-batcher: one thread that owns the model, scores what is queued and applies updates between batches.

Work-conserving: it never waits while requests wait, unless ``max_queue_delay_ms`` says so. Nothing else may
touch the table or the program, so no request sees half a row, and neither needs a lock.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from rillet.schemas import ClosedError
from rillet.serving.errors import DeadlineError, NotReadyError, RequestError, ScoringError
from rillet.serving.row_queue import Job, RowQueue

log = logging.getLogger(__name__)

#: a computation that does not end within it is taken for one that hangs
_CLOSE_TIMEOUT_S = 0.2

P = TypeVar("P")
R = TypeVar("R")


class BatchObserver(Protocol):
    """What the batcher tells its metrics."""

    def batch(self, jobs: int, rows: int, seconds: float) -> None:
        """A batch was computed."""


class AutoBatcher(Generic[P, R]):
    """``submit`` and ``wake`` from any thread, everything else happens on the batcher's own."""

    def __init__(
        self,
        *,
        compute: Callable[[Sequence[P]], Sequence[R | RequestError]],
        background_slice: Callable[[], bool],
        deliver: Callable[[list[tuple[Job[P, R], R | RequestError]]], None],
        queue: RowQueue[P, R],
        clock: Callable[[], float],
        observer: BatchObserver,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """
        :param compute: payloads of one batch to their results, or why there is none for one of them, in order.
        :param background_slice: one slice of background work; True when there is more of it.
        :param deliver: takes the results; called once per batch.
        :param clock: monotonic seconds.
        :param on_failure: called on the batcher's thread when it ends by an exception; all that waits is answered then.
        """
        self._compute = compute
        self._background_slice = background_slice
        self._deliver = deliver
        self._queue = queue
        self._clock = clock
        self._observer = observer
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._background_pending = False
        self._closed = False
        #: when the step that runs now began; None between two steps
        self._step_began_s: float | None = None
        #: jobs out of the queue and not answered yet; whoever empties it under the lock answers them
        self._taken: list[Job[P, R]] = []
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: Job[P, R], /) -> None:
        """Queues a job.

        :raises QueueFullError: too many rows wait; it is a BackpressureError.
        :raises ClosedError: after :meth:`close`.
        """
        with self._changed:
            if self._closed:
                raise ClosedError("the batcher is closed")
            self._queue.offer(job)
            self._changed.notify_all()

    def wake(self) -> None:
        """Says that there is background work; callable from any thread."""
        with self._changed:
            self._background_pending = True
            self._changed.notify_all()

    def stuck_s(self) -> float:
        """For how long the thread has been in one step, in seconds: 0 between two, infinite once the thread has died."""
        if self._thread.ident is not None and not self._thread.is_alive():
            return float("inf")
        began_s = self._step_began_s
        return 0.0 if began_s is None else self._clock() - began_s

    def where(self) -> str:
        """What the thread executes at the moment, as lines of a traceback; where it has ended, that."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "it has ended"

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Ends the thread after the batch that it computes, and answers what waits with NotReadyError.

        A batch that is not computed within ``timeout_s`` is answered with ScoringError, and its thread left to
        itself: it ends with the process.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            given_up = self._queue.clear()
            hanging, self._taken = self._taken, []
        if hanging:
            failed = ScoringError(f"the model did not answer within {timeout_s:.1f} s of the server's stop")
            self._deliver([(job, failed) for job in hanging])
            log.error("the model still computes a batch of %d requests at the stop: they got no scores", len(hanging))
        elif self._thread.is_alive():
            log.error("the batcher's thread did not end within %.1f s: it applies updates", timeout_s)
        if given_up:
            error = NotReadyError("the server is stopping")
            self._deliver([(job, error) for job in given_up])
            log.error("the batcher was closed with %d requests in its queue: they got no scores", len(given_up))

    def step(self) -> None:
        """One batch if one is due, then one slice of background work if there is some. Does not wait."""
        now = self._clock()
        with self._changed:
            due = self._is_due(now)
            batch, expired = self._queue.take(now) if due else ([], [])
            background, self._background_pending = self._background_pending, False
            self._taken = taken = batch + expired
        outcomes: list[tuple[Job[P, R], R | RequestError]] = [
            (job, DeadlineError(f"the deadline passed after {(now - job.enqueued_s) * 1e3:.1f} ms in the queue"))
            for job in expired
        ]
        if batch:
            results = self._results(batch)
            outcomes.extend(zip(batch, results, strict=True))
            self._observer.batch(len(batch), sum(job.rows for job in batch), self._clock() - now)
        with self._changed:
            given_up, self._taken = self._taken is not taken, []
        if outcomes and not given_up:  # close answers what it gives up
            self._deliver(outcomes)
        if background and self._background_slice():
            with self._changed:
                self._background_pending = True

    def _run(self) -> None:
        try:
            while self._wait():
                self._step_began_s = self._clock()
                self.step()
                self._step_began_s = None
        # Handed to the owner: a server whose batcher is gone must not go on as if it scored.
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.exception("the batcher's thread failed")
        with self._changed:
            self._closed = True
            unanswered = self._taken + self._queue.clear()
            self._taken = []
        self._on_failure(error)
        if unanswered:
            failed = ScoringError(f"the batcher failed: {type(error).__name__}: {error}")
            self._deliver([(job, failed) for job in unanswered])

    def _wait(self) -> bool:
        """Sleeps until :meth:`step` has something to do; False when closed."""
        with self._changed:
            while not self._closed:
                now = self._clock()
                if self._background_pending or self._is_due(now):
                    return True
                self._changed.wait(self._queue.wait_s(now))
            return False

    def _is_due(self, now: float) -> bool:
        return self._queue.wait_s(now) == 0.0

    def _results(self, batch: Sequence[Job[P, R]]) -> Sequence[R | RequestError]:
        try:
            return self._compute([job.payload for job in batch])
        except RequestError as error:
            return [error] * len(batch)
        # The thread must outlive whatever a model does to one batch; its requests get 500 and the log the trace.
        except Exception as error:
            log.exception("scoring a batch of %d requests failed", len(batch))
            return [ScoringError(f"the model failed: {type(error).__name__}: {error}")] * len(batch)

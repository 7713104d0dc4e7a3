"""The server without its protocol: queue, batcher thread and model, with asyncio in front.

Where updates come from is up to the :class:`ServedModel`; HTTP is in ``app``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rillet.schemas import ClosedError, FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.serving.batcher import AutoBatcher
from rillet.serving.config import ServingConfig
from rillet.serving.errors import DeadlineError, NotReadyError, QueueFullError, RequestError
from rillet.serving.features import ScoreRequest
from rillet.serving.metrics import ServingMetrics
from rillet.serving.predictor import Predictor, Program, Table, check_logits
from rillet.serving.row_queue import Job, RowQueue

log = logging.getLogger(__name__)

#: Python's own is 5 ms
_SHORT_SWITCH_S = 5e-5

_Job = Job[ScoreRequest, "Scored"]
_Outcome = tuple[_Job, "Scored | RequestError"]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Logits float32[rows, T] and the version of the dense weights that gave them."""

    logits: Float32s
    version: int


class ServedModel(Protocol):
    """What is served, and how it changes. ``ready`` and ``version`` are read by any thread, the rest by the batcher's only.

    ``tests/contracts/test_served_model.py`` holds what every implementation has to do."""

    @property
    def ready(self) -> bool:
        """Whether there is a model; stays true once it is."""

    @property
    def version(self) -> int:
        """Version of the dense weights; read by any thread for metadata."""

    @property
    def table(self) -> Table: ...

    @property
    def program(self) -> Program: ...

    def apply(self, budget_s: float) -> bool:
        """Applies updates for at most about ``budget_s``; True when there are more. Must not raise for a bad update."""


class Engine:
    """Scores requests of an event loop on one thread of its own."""

    def __init__(
        self,
        spec: FeatureSpec,
        model: ServedModel,
        config: ServingConfig,
        metrics: ServingMetrics,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """:param on_failure: called on the batcher's thread when it ends by itself; all that waited is answered then."""
        self.model = model
        self._config = config
        self._metrics = metrics
        #: monotonic seconds, which deadlines are of
        self.clock = clock
        self._predictor = Predictor(spec)
        self._queue: RowQueue[ScoreRequest, Scored] = RowQueue(
            config.max_queue_rows, config.max_batch_rows, config.max_queue_delay_ms / 1e3
        )
        self._batcher: AutoBatcher[ScoreRequest, Scored] = AutoBatcher(
            compute=self._compute,
            background_slice=self._apply_slice,
            deliver=self._deliver,
            queue=self._queue,
            clock=clock,
            observer=metrics,
            on_failure=on_failure,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._withdrawn = self._refusing = False
        self._was_live = True
        #: what it was, while the interpreter's switch interval is short
        self._usual_switch_s: float | None = None
        metrics.waiting_rows(lambda: self._queue.rows)

    @property
    def live(self) -> bool:
        """Whether the batcher's thread does anything, or is not wanted any more; a process in which it is stuck has to be
        started again."""
        stuck_s = self._batcher.stuck_s()
        live = self._refusing or stuck_s < self._config.stuck_after_s
        if live != self._was_live:
            self._was_live = live
            if live:
                log.warning("the batcher's thread goes on")
            else:
                log.error("the batcher's thread has been in one step for %.0f s:\n%s", stuck_s, self._batcher.where())
        return live

    @property
    def withdrawn(self) -> bool:
        """Whether clients are to go elsewhere: see :meth:`withdraw`."""
        return self._withdrawn

    @property
    def ready(self) -> bool:
        """Whether requests are wanted; after :meth:`withdraw` those that come are still scored."""
        return self.model.ready and not self._withdrawn and self.live

    @property
    def queue_rows(self) -> int:
        """Rows waiting for the batcher."""
        return self._queue.rows

    def admit(self) -> None:
        """Asked once per request, before its body is read: what was admitted is scored, also if :meth:`refuse` comes meanwhile.

        :raises NotReadyError: no model yet, stuck, or stopping.
        :raises QueueFullError: too many rows wait.
        """
        if self._refusing:
            raise NotReadyError("the server is stopping")
        if not self.model.ready:
            raise NotReadyError("no model is loaded yet; the replica waits for a base")
        if not self.live:
            raise NotReadyError("the thread that scores is stuck; the log says more")
        try:
            self._queue.check_room()
        except QueueFullError:
            self._prefer_batcher()
            raise

    def start(self) -> None:
        """Starts the batcher's thread."""
        self._batcher.start()

    def wake(self) -> None:
        """Says that there are updates to apply; callable from any thread."""
        self._batcher.wake()

    def withdraw(self) -> None:
        """From now on not ready, so that a load balancer sends no more; what still comes is scored."""
        self._withdrawn = True

    def refuse(self) -> None:
        """From now on nothing is admitted; what was is still answered."""
        self._withdrawn = self._refusing = True

    def close(self) -> None:
        """Ends the batcher's thread after the batch that it computes; requests still queued get NotReadyError.

        A batch that does not end soon gets ScoringError, and its thread is left to end with the process.
        """
        self.refuse()
        self._batcher.close()

    async def score(self, request: ScoreRequest, timeout_ms: float, arrived_s: float) -> Scored:
        """Queues an admitted request and waits for its scores.

        :param timeout_ms: from its arrival to its scores; those that come later are not given. 0 is no deadline.
        :param arrived_s: when its first byte came, on :attr:`clock`.
        :raises RequestError: queue full, deadline passed, the model failed, or the batcher is closed.
        """
        loop = self._bound_loop()
        future: asyncio.Future[Scored] = loop.create_future()

        def settle(outcome: Scored | RequestError) -> None:
            if future.done():  # its client is gone
                return
            if isinstance(outcome, RequestError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        deadline = arrived_s + timeout_ms / 1e3 if timeout_ms else float("inf")
        now = self.clock()
        if now >= deadline:
            raise DeadlineError(f"the request took {(now - arrived_s) * 1e3:.1f} ms to arrive, too long for it")
        try:
            self._batcher.submit(Job(request, request.rows, settle, now, deadline))
        except ClosedError as error:
            raise NotReadyError("the server is stopping") from error
        scored = await future
        if (now := self.clock()) >= deadline:
            raise DeadlineError(f"the scores came {(now - arrived_s) * 1e3:.1f} ms after the request, too late for it")
        return scored

    def _bound_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop: that of the first request, as for asyncio's own locks and queues."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("the engine scores the requests of one event loop, and this is another")
        return loop

    def _compute(self, requests: Sequence[ScoreRequest]) -> list[Scored | RequestError]:
        model, predictor = self.model, self._predictor
        fids, unknown = predictor.fids, predictor.unknown_fids
        logits = predictor.score(model.table, model.program, requests)
        self._metrics.fids.inc(predictor.fids - fids)
        self._metrics.unknown_fids.inc(predictor.unknown_fids - unknown)
        version = model.version
        if np.isfinite(np.concatenate(logits)).all():
            return [Scored(one, version) for one in logits]
        return [_scored(one, version) for one in logits]

    def _apply_slice(self) -> bool:
        return self.model.apply(self._config.apply_slice_ms / 1e3)

    def _prefer_batcher(self) -> None:
        """While the queue is full, threads have to let others run Python sooner.

        An event loop that is busy refusing requests would otherwise hold up the batcher at each of its steps: with 2,048
        connections 3,000 answers per second were left of 5,700, and 4,300 are so. At all times it would cost a tenth.
        """
        if self._usual_switch_s is None:
            self._usual_switch_s = sys.getswitchinterval()
            sys.setswitchinterval(_SHORT_SWITCH_S)

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        if self._usual_switch_s is not None and 2 * self._queue.rows < self._config.max_queue_rows:
            sys.setswitchinterval(self._usual_switch_s)
            self._usual_switch_s = None
        assert self._loop is not None  # noqa: S101  # set before the first job was queued
        # The loop is woken once per batch, not once per request.
        try:
            self._loop.call_soon_threadsafe(_settle_all, outcomes)
        except RuntimeError:  # the loop was closed, and with it the connections of those who asked
            log.error("%d requests were scored after the event loop was closed", len(outcomes))


def _scored(logits: Float32s, version: int) -> Scored | RequestError:
    try:
        return Scored(check_logits(logits), version)
    except RequestError as error:
        return error


def _settle_all(outcomes: list[_Outcome]) -> None:
    for job, outcome in outcomes:
        job.done(outcome)

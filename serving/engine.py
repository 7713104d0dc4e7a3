"""The server without its protocol: queue, batcher thread and the model that it owns; asyncio in front.

Where updates come from is behind :class:`ServedModel`; HTTP is ``app``'s business.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.serving.batcher import AutoBatcher
from rillet.serving.config import ServingConfig
from rillet.serving.errors import NotReadyError, RequestError
from rillet.serving.features import ScoreRequest
from rillet.serving.metrics import ServingMetrics
from rillet.serving.predictor import Predictor, Program, Table
from rillet.serving.row_queue import Job, RowQueue

log = logging.getLogger(__name__)

_Job = Job[ScoreRequest, "Scored"]
_Outcome = tuple[_Job, "Scored | RequestError"]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Logits float32[rows, T] and the version of the dense weights that gave them."""

    logits: Float32s
    version: int


class ServedModel(Protocol):
    """What is served, and how it changes. ``ready`` is read by any thread, the rest by the batcher's only."""

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
        """Applies updates for at most about ``budget_s``; True when more are at hand. Must not raise for a bad update."""


class Engine:
    """Scores requests of an event loop on one thread of its own."""

    def __init__(
        self,
        spec: FeatureSpec,
        model: ServedModel,
        config: ServingConfig,
        metrics: ServingMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._predictor = Predictor(spec)
        self._queue: RowQueue[ScoreRequest, Scored] = RowQueue(
            config.max_queue_rows, config.max_batch_rows, config.max_queue_delay_ms / 1e3
        )
        self._batcher: AutoBatcher[ScoreRequest, Scored] = AutoBatcher(
            compute=self._compute,
            between=self._between,
            deliver=self._deliver,
            queue=self._queue,
            clock=clock,
            observer=metrics,
        )
        self._thread = threading.Thread(target=self._batcher.run, name="batcher", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether requests are scored now."""
        return self.model.ready and not self._stopping

    @property
    def queue_rows(self) -> int:
        """Rows waiting for the batcher."""
        return self._queue.rows

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the batcher; results are handed to ``loop``."""
        self._loop = loop
        self._thread.start()

    def wake(self) -> None:
        """Says that updates are at hand; callable from any thread."""
        self._batcher.wake()

    def refuse(self) -> None:
        """From now on not ready; what is queued is still answered."""
        self._stopping = True

    def stop(self, timeout_s: float) -> None:
        """Answers what is queued and ends the batcher; blocks."""
        self._stopping = True
        self._batcher.stop()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the batcher did not end within %.0f s; %d rows are not answered", timeout_s, self._queue.rows)

    async def score(self, request: ScoreRequest, timeout_ms: float) -> Scored:
        """Queues a request and waits for its scores.

        :param timeout_ms: not computed later than this from now; 0 is no deadline.
        :raises RequestError: not ready, queue full, deadline passed, or the model failed.
        """
        if not self.ready:
            raise NotReadyError(
                "the server is stopping" if self._stopping else "no model is loaded yet; the replica waits for a base"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scored] = loop.create_future()

        def settle(outcome: Scored | RequestError) -> None:
            if future.done():  # its client is gone
                return
            if isinstance(outcome, RequestError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        now = self._clock()
        deadline = now + timeout_ms / 1e3 if timeout_ms else float("inf")
        self._batcher.submit(Job(request, request.rows, settle, now, deadline))
        return await future

    def _compute(self, requests: Sequence[ScoreRequest]) -> list[Scored]:
        model, predictor = self.model, self._predictor
        fids, unknown = predictor.fids, predictor.unknown_fids
        logits = predictor.score(model.table, model.program, requests)
        self._metrics.fids.inc(predictor.fids - fids)
        self._metrics.unknown_fids.inc(predictor.unknown_fids - unknown)
        version = model.version
        return [Scored(one, version) for one in logits]

    def _between(self) -> bool:
        return self.model.apply(self._config.apply_slice_ms / 1e3)

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        assert self._loop is not None  # noqa: S101  # set before the thread starts
        # One wake-up of the loop a batch, not one a request.
        self._loop.call_soon_threadsafe(_settle_all, outcomes)


def _settle_all(outcomes: list[_Outcome]) -> None:
    for job, outcome in outcomes:
        job.done(outcome)

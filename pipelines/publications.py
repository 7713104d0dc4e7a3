"""When the trainer publishes what it learned, and what a failure to publish means: try again, go on training.

This is the only module of the trainer's service that calls the publisher.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rillet.pipelines.base_writer import BaseWriter
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import FlushTimeoutError, dump_spec
from rillet.sync import LogUnavailableError, Publisher, StoreUnavailableError
from rillet.trainer import OnlineTrainer, dense_state

log = logging.getLogger(__name__)

#: how long training waits for the rows of a base between two polls, about
_SLICE_S = 0.005
_BASE_TIMEOUT_S = 600.0
#: the same once the trainer was told to stop: whoever did that kills it soon
_STOP_TIMEOUT_S = 10.0
#: how soon a stop is noticed meanwhile
_LOOK_S = 0.5


class Publications:
    """Touched rows, dense weights and bases of one trainer, each at its own interval."""

    def __init__(
        self,
        trainer: OnlineTrainer,
        publisher: Publisher,
        bases: BaseWriter,
        *,
        program: Callable[[], bytes],
        metrics: TrainMetrics,
    ) -> None:
        """
        :param program: the exported model; asked for only when a base is due, since making it takes seconds.
        """
        self._trainer = trainer
        self._publisher = publisher
        self._bases = bases
        self._program = program
        self._metrics = metrics
        self._published = False
        #: write no base, whatever is due
        self.hold_bases = False

    @property
    def published(self) -> bool:
        """Whether the log has acknowledged a publication of this process: readers can follow."""
        return self._published

    def state(self) -> dict[str, int]:
        """What a checkpoint has to keep, for :class:`rillet.sync.Publisher` to go on from."""
        return self._publisher.state()

    def publish_if_due(self, now_ms: int) -> None:
        """Publishes when an interval is over, or too many rows wait.

        :raises ModelError: a weight is not finite.
        :raises FencedError: a newer trainer publishes this model.
        :raises Exception: whatever else than the store kept a base from being written.
        """
        self._bases.hand_over(_SLICE_S)
        self.settle_base(now_ms)
        if self._publisher.sparse_due(now_ms, self._trainer.table):
            self.publish(now_ms)

    def publish(self, now_ms: int, *, base: bool = False) -> bool:
        """Publishes what was touched, and a base when one is due. What fails is tried again at the next interval.

        :param base: write a base and all weights, due or not, after waiting for one that is being written.
        :returns: whether the log has acknowledged it, and a base is being written if one is due.
        :raises ModelError: a weight is not finite.
        :raises FencedError: a newer trainer publishes this model.
        """
        if base:
            self.finish(now_ms)
        trainer, publisher = self._trainer, self._publisher
        dense, trained_rows = dense_state(trainer.learner.model), trainer.counters.rows
        try:
            self._metrics.published(
                publisher.publish(
                    trainer.table,
                    now_ms=now_ms,
                    freshness=trainer.take_freshness(),
                    dense=dense if base or publisher.dense_due(now_ms, trained_rows) else None,
                    trained_rows=trained_rows,
                )
            )
            if not self.hold_bases and self._bases.idle and (base or publisher.base_due(now_ms)):
                self._bases.submit(
                    publisher.begin_base(
                        trainer.table,
                        now_ms=now_ms,
                        dense=dense,
                        program=self._program(),
                        spec_toml=dump_spec(trainer.spec),
                    )
                )
        except (LogUnavailableError, StoreUnavailableError) as error:
            self._metrics.publish_failed()
            log.warning("not published, %d rows wait: %s", len(trainer.table.touched), error)
            return False
        self._published = True
        return True

    def finish(self, now_ms: int, stop: threading.Event | None = None) -> bool:
        """Waits for a base that is being written.

        :param stop: once it is set a base that takes longer is given up; the next start writes another.
        :returns: whether it was written, or there was none.
        :raises FlushTimeoutError: it takes too long, and nobody has told the trainer to stop.
        :raises Exception: whatever else than the store kept it from being written.
        """
        waited_s = stopping_s = 0.0
        while True:
            try:
                return self.settle_base(now_ms, timeout_s=_LOOK_S)
            except FlushTimeoutError as error:
                waited_s += _LOOK_S
                stopping_s += _LOOK_S if stop is not None and stop.is_set() else 0.0
                if stopping_s >= _STOP_TIMEOUT_S:
                    log.warning("%s; it is given up, the next start writes another", error)
                    return False
                if waited_s >= _BASE_TIMEOUT_S:
                    raise

    def settle_base(self, now_ms: int, *, timeout_s: float = 0.0) -> bool:
        """Takes note of a base that was written or failed, after waiting for it where ``timeout_s`` is given.

        :returns: False of one that the store did not take.
        :raises FlushTimeoutError: it takes longer.
        :raises Exception: whatever else than the store kept it from being written.
        """
        try:
            if timeout_s:
                self._bases.flush(timeout_s)
            manifest = self._bases.result()
        except StoreUnavailableError as error:
            self._publisher.base_failed(now_ms)
            self._metrics.base_failures.inc()
            log.warning("a base was not written, the next is due in sparse_interval_s: %s", error)
            return False
        if manifest is not None:
            self._metrics.bases.inc()
            log.info("base %d written: %d rows", manifest.version, manifest.rows)
        return True

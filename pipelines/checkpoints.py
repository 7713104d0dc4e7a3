"""When the trainer saves a checkpoint, and what has to be safe before one may be written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import FlushTimeoutError, Sink
from rillet.trainer import CheckpointStore, OnlineTrainer

log = logging.getLogger(__name__)

_LETTERS_TIMEOUT_S = 30.0


class Checkpoints:
    """Checkpoints of one trainer at an interval; a store or broker that is away costs one, not the run."""

    def __init__(
        self,
        trainer: OnlineTrainer,
        store: CheckpointStore,
        *,
        letters: Sink[Any],
        extra: Callable[[], Mapping[str, Any]],
        metrics: TrainMetrics,
        now_ms: int,
    ) -> None:
        """
        :param letters: where refused records went. The positions of a checkpoint pass those records, so a checkpoint
            is written only after ``letters`` was flushed.
        :param extra: plain JSON values to keep beside the trainer's own, of the same moment.
        :param now_ms: the first checkpoint is due an interval after this.
        """
        self._trainer = trainer
        self._store = store
        self._letters = letters
        self._extra = extra
        self._metrics = metrics
        self._interval_ms = trainer.config.checkpoint_interval_s * 1000
        self._last_ms = now_ms

    def save_if_due(self, now_ms: int) -> None:
        """Saves when the interval is over.

        :raises RilletError: see :meth:`save`.
        """
        if now_ms - self._last_ms >= self._interval_ms:
            self.save(now_ms)

    def save(self, now_ms: int) -> bool:
        """Saves. If letters or the store are away, it is tried again after the interval.

        :returns: whether it was saved.
        :raises ModelError: a weight is not finite.
        :raises RilletError: dead letters were lost for good: no later position may be saved.
        """
        self._last_ms = now_ms
        try:
            with self._metrics.checkpoint_seconds.time():
                self._letters.flush(_LETTERS_TIMEOUT_S)
                self._trainer.save(self._store, self._extra())
        except (FlushTimeoutError, OSError) as error:
            self._metrics.checkpoint_failures.inc()
            log.warning("no checkpoint was written: %s", error)
            return False
        return True

"""When the trainer saves a checkpoint, what has to be safe before one counts, and how it is written while training goes on.

A checkpoint begins between two batches, with copies of all that is small. The table is taken part by part in slices of the
loop, and everything slow has a thread of its own: waiting for letters, sorting, hashing, writing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rillet.embeddings import TablePart
from rillet.pipelines.handover import Handover
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import FlushTimeoutError, Sink
from rillet.trainer import CheckpointStore, OnlineTrainer

log = logging.getLogger(__name__)

#: how often it is told, at most, that a checkpoint is not written yet
_LONG_S = 60.0
_LETTERS_TIMEOUT_S = 30.0
#: how long training waits for a checkpoint between two polls, about: a part more may be taken
_SLICE_S = 0.01
#: for how long the last checkpoints may be written after the trainer was told to stop. Longer than a base, which the next start
#: writes again: what a checkpoint had would have to be learned again
_STOP_TIMEOUT_S = 60.0
#: how soon a stop is noticed meanwhile
_LOOK_S = 0.5


class Checkpoints:
    """Checkpoints of one trainer at an interval; a store or broker that is away costs one, not the run.

    Called from the training thread alone.
    """

    def __init__(
        self,
        trainer: OnlineTrainer,
        store: CheckpointStore,
        *,
        letters: Sink[Any],
        extra: Callable[[], Mapping[str, Any]],
        metrics: TrainMetrics,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param letters: where refused records went. The positions of a checkpoint pass those records, so a checkpoint
            is written only after ``letters`` was flushed, in the thread that writes.
        :param extra: plain JSON values to keep beside the trainer's own, of the same moment.
        :param monotonic_s: a clock that nobody sets; the first checkpoint is due an interval after now.
        """
        self._trainer = trainer
        self._store = store
        self._letters = letters
        self._extra = extra
        self._metrics = metrics
        self._monotonic_s = monotonic_s
        self._interval_s = trainer.config.checkpoint_interval_s
        self._last_s = monotonic_s()
        self._writing: _Writing | None = None
        #: ``time.perf_counter`` when a wait first saw the stop
        self._stopped_s: float | None = None
        self._closed = False

    def save_if_due(self) -> None:
        """Begins a checkpoint when the interval since the end of the last one is over, or goes on with the one in hand.

        :raises RilletError: see :meth:`save`.
        """
        writing = self._writing
        if writing is None:
            if not self._closed and self._monotonic_s() - self._last_s >= self._interval_s:
                self._begin()
            return
        with writing.waits():
            writing.handover.hand_over(_SLICE_S)
        if writing.handover.ended():
            self._settle(writing)
        else:
            self._tell(writing)

    def save(self, stop: threading.Event | None = None) -> bool:
        """Saves, and waits for it. If letters or the store are away, it is tried again after the interval.

        A checkpoint that is being written is written first: it is older.

        :param stop: once it is set, a store that takes longer than ``_STOP_TIMEOUT_S`` from then on is not waited for: what is
            being written is given up, and nothing more is begun.
        :returns: whether it was saved.
        :raises ModelError: a weight is not finite.
        :raises RilletError: dead letters were lost for good: no later position may be saved.
        """
        if self._writing is not None:
            self._finish(self._writing, stop)
        # The thread of one that was given up may still be at it, and there is one writer at a time.
        return not self._closed and self._finish(self._begin(), stop)

    def close(self) -> None:
        """Gives up a checkpoint that is being written: the one before it stays the newest. No more are begun."""
        self._closed = True
        if self._writing is not None:
            self._writing.handover.give_up()
            self._writing = None

    def _begin(self) -> _Writing:
        started = time.perf_counter()
        point = self._trainer.save_point(self._extra())

        def write(parts: Iterator[TablePart]) -> int:
            """In the background."""
            self._letters.flush(_LETTERS_TIMEOUT_S)
            return point.write(self._store, parts)

        handover = Handover("checkpoint-writer", point.table, write)
        self._writing = _Writing(handover, started, time.perf_counter() - started, self._monotonic_s())
        return self._writing

    def _finish(self, writing: _Writing, stop: threading.Event | None) -> bool:
        with writing.waits():
            while not writing.handover.finish(_LOOK_S):
                self._tell(writing)
                if stop is not None and stop.is_set() and self._stop_is_over():
                    self._metrics.checkpoint_failures.inc()
                    log.warning("a checkpoint is not written %.0f s after the stop, and given up", _STOP_TIMEOUT_S)
                    self.close()
                    return False
        return self._settle(writing)

    def _stop_is_over(self) -> bool:
        """Counted from the first time that it is asked: all waits of a stop share its time."""
        now = time.perf_counter()
        if self._stopped_s is None:
            self._stopped_s = now
        return now - self._stopped_s >= _STOP_TIMEOUT_S

    def _tell(self, writing: _Writing) -> None:
        """A store that hangs fails nothing, and nobody would see that a crash costs more and more."""
        if self._monotonic_s() - writing.told_s >= max(self._interval_s, _LONG_S):
            writing.told_s = self._monotonic_s()
            log.warning("a checkpoint is still being written after %.0f s", time.perf_counter() - writing.started)

    def _settle(self, writing: _Writing) -> bool:
        self._writing = None
        self._last_s = self._monotonic_s()
        self._metrics.checkpoint_seconds.observe(writing.waited_s)
        try:
            writing.handover.outcome()
        except (FlushTimeoutError, OSError) as error:
            self._metrics.checkpoint_failures.inc()
            log.warning("no checkpoint was written: %s", error)
            return False
        self._metrics.checkpoint_write_seconds.observe(time.perf_counter() - writing.started)
        return True


@dataclass(slots=True)
class _Writing:
    """A checkpoint that is being written."""

    handover: Handover[int]
    #: ``time.perf_counter`` at its moment
    started: float
    #: for how long training has waited
    waited_s: float
    #: :attr:`Checkpoints._monotonic_s` at its moment, or when it was last told that it is not written yet
    told_s: float

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Within it training waits."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited_s += time.perf_counter() - began

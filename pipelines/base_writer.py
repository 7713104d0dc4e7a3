"""Writes bases to the object store in the background, one at a time, so that training goes on meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from rillet.embeddings import TablePart
from rillet.pipelines.handover import Handover
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import BackpressureError, ClosedError, FlushTimeoutError
from rillet.sync import BaseSnapshot, Manifest, ModelStore, StoreUnavailableError

log = logging.getLogger(__name__)


class BaseWriter:
    """A ``Sink[BaseSnapshot]`` for one base at a time. Called from one thread."""

    def __init__(self, store: ModelStore, *, keep_bases: int, keep_dense: int, metrics: TrainMetrics) -> None:
        """
        :param keep_bases: newest bases that are kept, older ones are deleted after each write.
        :param keep_dense: newest blobs of dense weights that are kept, beside those of the bases.
        """
        self._store = store
        self._keep_bases = keep_bases
        self._keep_dense = keep_dense
        self._metrics = metrics
        self._writing: Handover[Manifest] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether a base would be taken: none is being written, and what became of the last one was told."""
        return self._writing is None

    def start(self) -> None:
        """Nothing to start: each base has a thread of its own."""

    def submit(self, base: BaseSnapshot, /) -> None:
        """Begins to write a base.

        :raises BackpressureError: not :attr:`idle`.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError("the base writer is closed")
        if self._writing is not None:
            raise BackpressureError("a base is still being written, or its result was not asked for: see idle")
        self._writing = Handover("base-writer", base.table, lambda parts: self._write(base, parts))

    def hand_over(self, slice_s: float) -> None:
        """Takes rows of the base that is being written for about so long; to be called until it is written."""
        if self._writing is not None:
            self._writing.hand_over(slice_s)

    def result(self) -> Manifest | None:
        """The manifest of a base that was written, told once; None while there is none.

        :raises StoreUnavailableError: the store did not take it; told once, here or by :meth:`flush`.
        :raises BaseException: whatever else kept it from being written.
        """
        if self._writing is None or not self._writing.ended():
            return None
        done, self._writing = self._writing, None
        return done.outcome()

    def flush(self, timeout_s: float) -> None:
        """Waits for the base that is being written; its manifest is then :meth:`result`'s.

        :raises FlushTimeoutError: it takes longer than ``timeout_s``.
        :raises StoreUnavailableError: the store did not take it; told once, here or by :meth:`result`.
        :raises BaseException: whatever else kept it from being written.
        """
        if self._writing is None:
            return
        if not self._writing.finish(timeout_s):
            raise FlushTimeoutError(f"a base is still being written to {self._store.url} after {timeout_s:.0f} s")
        if self._writing.error is not None:
            self.result()

    def close(self) -> None:
        """Takes no more bases and waits for none: one that is being written is given up, and counted as failed.

        Its thread cannot be interrupted; it does not keep the process alive.
        """
        self._closed = True
        given_up, self._writing = self._writing, None
        if given_up is not None and not (given_up.ended() and given_up.error is None):
            given_up.give_up()
            self._metrics.base_failures.inc()
            why = given_up.error or "it is still being written"
            log.error("a base was not written to %s before the end: %s", self._store.url, why)

    def _write(self, base: BaseSnapshot, parts: Iterator[TablePart]) -> Manifest:
        """In the background."""
        manifest = self._store.write_base(base.base(parts))
        try:
            self._store.collect_garbage(self._keep_bases, self._keep_dense)
        except StoreUnavailableError as error:
            self._metrics.garbage_failures.inc()
            log.warning("old bases and dense blobs were not deleted, the next base tries again: %s", error)
        return manifest

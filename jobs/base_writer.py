"""Writes bases to the object store in the background, one at a time, so that training goes on meanwhile."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait

from rillet.jobs.train_metrics import TrainMetrics
from rillet.schemas import BackpressureError, ClosedError, FlushTimeoutError
from rillet.sync import Base, Manifest, ModelStore, StoreUnavailableError

log = logging.getLogger("rillet.train")


class BaseWriter:
    """A ``Sink[Base]`` for one base at a time. Called from one thread."""

    def __init__(self, store: ModelStore, *, keep_bases: int, keep_dense: int, metrics: TrainMetrics) -> None:
        """
        :param keep_bases: newest bases that are kept, older ones are deleted after each write.
        :param keep_dense: newest blobs of dense weights that are kept, beside those of the bases.
        """
        self._store = store
        self._keep_bases = keep_bases
        self._keep_dense = keep_dense
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(1, "base-writer")
        self._writing: Future[Manifest] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether a base would be taken: none is being written, and the result of the last one was asked for."""
        return self._writing is None

    def start(self) -> None:
        """Nothing to start: the thread begins with the first base."""

    def submit(self, base: Base, /) -> None:
        """Begins to write a base.

        :raises BackpressureError: not :attr:`idle`.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError("the base writer is closed")
        if self._writing is not None:
            raise BackpressureError("a base is still being written; submit the next one after result() gave it")
        self._writing = self._executor.submit(self._write, base)

    def result(self) -> Manifest | None:
        """The manifest of a base that was written, told once; None while there is none.

        :raises StoreUnavailableError: the store did not take it.
        :raises Exception: whatever else kept it from being written.
        """
        if self._writing is None or not self._writing.done():
            return None
        done, self._writing = self._writing, None
        return done.result()

    def flush(self, timeout_s: float) -> None:
        """Waits for the base that is being written; :meth:`result` tells what became of it.

        :raises FlushTimeoutError: it takes longer than ``timeout_s``.
        """
        if self._writing is not None and wait([self._writing], timeout_s).not_done:
            raise FlushTimeoutError(f"a base is still being written to {self._store.url} after {timeout_s:.0f} s")

    def close(self) -> None:
        """Takes no more bases. One that is being written is finished in the background."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _write(self, base: Base) -> Manifest:
        """In the background."""
        manifest = self._store.write_base(base)
        try:
            self._store.collect_garbage(self._keep_bases, self._keep_dense)
        except StoreUnavailableError as error:
            self._metrics.garbage_failures.inc()
            log.warning("old bases and dense blobs were not deleted, the next base tries again: %s", error)
        return manifest

"""A background thread that reads, decodes and checks example blocks ahead of training.

Bounded in rows: it waits when training falls behind. What it cannot use is handed over with the reason, and its
place in the order is kept, so that positions pass it. The source is a protocol: Kafka in ``connectors``, a
list in :mod:`rillet.trainer.list_source`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rillet.schemas import ExampleBlock, RecordError, SpecRegistry, decode_as
from rillet.schemas.stages import BackpressureError, ClosedError, Source
from rillet.trainer.batch import Positions


@dataclass(frozen=True, slots=True, eq=False)
class ReadBlock:
    """A record's place and its checked block; None where the record was refused."""

    partition: int
    offset: int
    block: ExampleBlock | None


class RawRecord(NamedTuple):
    """A record as it is in the log."""

    partition: int
    offset: int
    value: bytes
    key: bytes | None = None


class BadRecord(NamedTuple):
    """A record, or one row of it, that cannot be trained on, and why."""

    #: of a row: a record at the same place that holds this row alone
    record: RawRecord
    error: RecordError
    #: number of the row in the record; None where the whole record was refused
    row: int | None = None


class ExampleSource(Source[RawRecord | ReadBlock], Protocol):
    """Where example records come from: in order within a partition, each once, from given positions on.

    A source gives records as they are in the log, or decoded and checked.
    ``tests/contracts/test_example_source.py`` holds what every implementation has to do.
    """

    @property
    def trouble(self) -> str:
        """What it is waiting for, such as a broker that is away; empty while all is well."""

    def lag(self, positions: Positions) -> int:
        """Records after ``positions``, as far as it knows; 0 at the end of what there is. From any thread."""


class BlockReader:
    """A ``Source[ReadBlock]`` that decodes ahead of whoever polls it, at most about ``max_rows`` rows.

    It owns its source: starting and closing the reader starts and closes the source.
    """

    def __init__(
        self,
        source: ExampleSource,
        specs: SpecRegistry,
        *,
        on_bad: Callable[[BadRecord], None],
        max_rows: int,
        poll_rows: int | None = None,
        source_records: int = 500,
        source_wait_s: float = 0.1,
    ) -> None:
        """
        :param specs: blocks are given as those of its current spec; a block of no spec among them cannot be used.
        :param on_bad: takes each record that cannot be used, in the reading thread. While it raises
            BackpressureError it is called again with the same record, and reading waits: no record is passed before
            it was taken.
        :param max_rows: decoded rows that wait in memory; reading waits above it.
        :param poll_rows: a poll stops at the block that brings it to this many rows; no limit if None.
        :param source_records: records per poll of the source; also how many may be queued beyond ``max_rows``.
        :param source_wait_s: longest wait for the source or for room, seconds; bounds how long :meth:`close` takes.
        """
        self._source = source
        self._specs = specs
        self._on_bad = on_bad
        self._max_rows = max_rows
        self._poll_rows = poll_rows
        self._source_records = source_records
        self._source_wait_s = source_wait_s
        self._queue: deque[ReadBlock] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="example-reader", daemon=True)

    @property
    def trouble(self) -> str:
        """What the source is waiting for, empty while all is well."""
        return self._source.trouble

    def lag(self, positions: Positions) -> int:
        """Records of the source after ``positions``, as far as it knows; those that are decoded already count too."""
        return self._source.lag(positions)

    def start(self) -> None:
        """Starts the source, then reading."""
        self._source.start()
        self._thread.start()

    def poll(self, max_items: int, timeout_s: float) -> Sequence[ReadBlock] | None:
        """Up to ``max_items`` blocks in reading order; empty after ``timeout_s`` without any.

        :returns: None once the source has ended and everything was taken.
        :raises ClosedError: after :meth:`close`.
        :raises Exception: whatever stopped the reading thread, once everything read before it was taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._finished or self._closed, timeout_s)
            if self._closed:
                raise ClosedError("the example reader is closed")
            if not self._queue and self._finished:
                if self._error is not None:
                    raise self._error
                return None
            taken: list[ReadBlock] = []
            rows = 0
            while self._queue and len(taken) < max_items and (self._poll_rows is None or rows < self._poll_rows):
                item = self._queue.popleft()
                rows += _rows(item)
                taken.append(item)
            self._rows -= rows
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Stops the thread and closes the source. Blocks that were read and not polled are dropped."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._source.close()

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                records = self._source.poll(self._source_records, self._source_wait_s)
                if records is None:
                    break
                for record in records:
                    item = record if isinstance(record, ReadBlock) else self._decode(record)
                    with self._changed:
                        self._queue.append(item)
                        self._rows += _rows(item)
                        self._changed.notify_all()
        except BaseException as error:  # kept for poll(), which raises it in the trainer's own thread
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._rows < self._max_rows)
            return not self._closed

    def _decode(self, record: RawRecord) -> ReadBlock:
        block: ExampleBlock | None
        try:
            block = self._specs.block(decode_as(ExampleBlock, record.value))
            self._specs.current.check_block(block)
        except RecordError as error:
            self._hand_over(BadRecord(record, error))
            block = None
        return ReadBlock(record.partition, record.offset, block)

    def _hand_over(self, bad: BadRecord) -> None:
        while True:
            try:
                self._on_bad(bad)
                return
            except BackpressureError:
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed, self._source_wait_s):
                        # Never queued, so no position passes it: it is read again after a restart.
                        raise ClosedError("closed while there was no room for a bad record") from None


def _rows(item: ReadBlock) -> int:
    return 0 if item.block is None else len(item.block)

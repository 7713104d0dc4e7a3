"""A background thread that reads, decodes and checks example blocks ahead of training.

Bounded in rows: it waits when training falls behind. What it cannot use is handed to a callback with the
reason, and its place in the order is kept, so that positions pass it. The source is a protocol: Kafka in
``jobs``, a list in tests.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rillet.schemas import ExampleBlock, FeatureSpec, RecordError, decode_as


class RawRecord(NamedTuple):
    """A record as it lies in the log."""

    partition: int
    offset: int
    value: bytes
    key: bytes | None = None


class ExampleSource(Protocol):
    """Where records come from, in order within a partition."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[RawRecord] | None:
        """Up to ``max_records`` next records, empty after ``timeout_s`` without one; None: the source has ended."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReadBlock:
    """A record's place and its block; None where the record was refused."""

    partition: int
    offset: int
    block: ExampleBlock | None


class BlockReader:
    """Decodes ahead, at most about ``max_rows`` rows."""

    def __init__(
        self,
        source: ExampleSource,
        spec: FeatureSpec,
        *,
        on_bad: Callable[[RawRecord, RecordError], None],
        max_rows: int,
        max_records: int = 500,
        poll_s: float = 0.1,
    ) -> None:
        """
        :param on_bad: called in the reading thread with each refused record; :meth:`close` waits for it to return.
        :param max_records: records a poll; also the most that is queued beyond ``max_rows``.
        :param poll_s: longest wait for the source, seconds; bounds how long :meth:`close` takes.
        """
        self._source = source
        self._spec = spec
        self._on_bad = on_bad
        self._max_rows = max_rows
        self._max_records = max_records
        self._poll_s = poll_s
        self._queue: deque[ReadBlock] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="example-reader", daemon=True)

    def start(self) -> None:
        """Starts reading."""
        self._thread.start()

    def take(self, max_rows: int, timeout_s: float) -> list[ReadBlock]:
        """Blocks in reading order until they hold ``max_rows`` rows; empty after ``timeout_s`` without any.

        :raises Exception: whatever stopped the thread, once all that was read before is taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._finished, timeout_s)
            if not self._queue and self._error is not None:
                raise self._error
            taken: list[ReadBlock] = []
            rows = 0
            while self._queue and rows < max_rows:
                item = self._queue.popleft()
                rows += _rows(item)
                taken.append(item)
            self._rows -= rows
            self._changed.notify_all()
            return taken

    @property
    def ended(self) -> bool:
        """The source has ended and all of it was taken."""
        with self._changed:
            return self._finished and self._error is None and not self._queue

    def close(self) -> None:
        """Stops the thread and waits for it. What was read and not taken is forgotten."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                records = self._source.poll(self._max_records, self._poll_s)
                if records is None:
                    break
                for record in records:
                    item = ReadBlock(record.partition, record.offset, self._decode(record))
                    with self._changed:
                        self._queue.append(item)
                        self._rows += _rows(item)
                        self._changed.notify_all()
        except BaseException as error:  # kept for take(), which raises it in the trainer's own thread
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._rows < self._max_rows)
            return not self._closed

    def _decode(self, record: RawRecord) -> ExampleBlock | None:
        try:
            block = decode_as(ExampleBlock, record.value)
            self._spec.check_block(block)
        except RecordError as error:
            self._on_bad(record, error)
            return None
        return block


def _rows(item: ReadBlock) -> int:
    return 0 if item.block is None else len(item.block)

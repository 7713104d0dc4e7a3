"""The delta log: an append-only sequence of records with one writer at a time and any number of readers.

A protocol and its implementation in memory; the one on Kafka is in ``connectors``. The log orders, keeps and
hands out bytes. It knows nothing of blocks, epochs or rows, and it isn't compacted: a key names a table
shard, not a row, so only age may remove records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rillet.schemas import BackpressureError, ClosedError, Stage
from rillet.sync.errors import PositionOutOfRangeError


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record. Positions rise from record to record, not always by one."""

    position: int
    key: bytes
    value: bytes


class DeltaLog(Stage, Protocol):
    """What publisher and replica need of a log. Its owner starts and closes it; they do neither.

    It is no sink: a failed :meth:`commit` empties the queue, since whoever writes again must know what came before.

    After :meth:`close` every call but another close raises ``ClosedError``.
    """

    def append(self, key: bytes, value: bytes) -> None:
        """Queues a record after those queued before, without blocking.

        :raises BackpressureError: the queue is full; the record was not taken. :meth:`commit` makes room.
        :raises LogUnavailableError: the log takes nothing any more; the queue is emptied as by a failed commit.
        """

    def commit(self, timeout_s: float) -> None:
        """Returns once everything queued is acknowledged.

        :raises LogUnavailableError: not all was, in time. The queue is empty afterwards; each of its records
            may be in the log, may come to it later, or never.
        """

    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        """Up to ``max_records`` records from ``position`` on; none when there is nothing within ``timeout_s``.

        :raises PositionOutOfRangeError: ``position`` is below ``begin()`` or above ``end()``.
        :raises LogUnavailableError: the log does not answer.
        """

    def begin(self) -> int:
        """Position of the oldest record kept, ``end()`` when there is none.

        :raises LogUnavailableError: the log does not answer.
        """

    def end(self) -> int:
        """Position after the newest record.

        :raises LogUnavailableError: the log does not answer.
        """


class MemoryLog:
    """A log in memory, for tests and for a trainer and a replica in one process."""

    def __init__(self, max_queued_records: int = 1_000_000) -> None:
        """:param max_queued_records: records appended and not yet committed at which :meth:`append` raises."""
        self._max_queued = max_queued_records
        self._records: list[LogRecord] = []
        self._queue: list[tuple[bytes, bytes]] = []
        self._begin = 0
        self._end = 0
        self._closed = False

    def start(self) -> None:
        """Nothing to do."""

    def append(self, key: bytes, value: bytes) -> None:
        """Queues a record."""
        self._refuse_if_closed()
        if len(self._queue) >= self._max_queued:
            raise BackpressureError(f"the delta log in memory has {len(self._queue)} records queued: commit it")
        self._queue.append((key, value))

    def commit(self, timeout_s: float) -> None:
        """Moves the queue to the log."""
        self._refuse_if_closed()
        queue, self._queue = self._queue, []
        for key, value in queue:
            self._records.append(LogRecord(self._end, key, value))
            self._end += 1

    def close(self) -> None:
        """Gives up what was not committed."""
        self._closed = True
        self._queue = []

    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        """Records from ``position`` on; never waits."""
        self._refuse_if_closed()
        if not self._begin <= position <= self._end:
            raise PositionOutOfRangeError(position, self._begin, self._end)
        first = position - self._begin
        return self._records[first : first + max_records]

    def begin(self) -> int:
        """Position of the oldest record kept."""
        self._refuse_if_closed()
        return self._begin

    def end(self) -> int:
        """Position after the newest record."""
        self._refuse_if_closed()
        return self._end

    def truncate(self, begin: int) -> None:
        """Forgets the records below ``begin``, as retention does."""
        if not self._begin <= begin <= self._end:
            raise PositionOutOfRangeError(begin, self._begin, self._end)
        del self._records[: begin - self._begin]
        self._begin = begin

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ClosedError("the delta log in memory was closed")

"""The delta log: an append-only sequence of records with one writer at a time and any number of readers.

A protocol and its implementation in memory; the one on Kafka is in ``jobs``. The log orders, keeps and
hands out bytes. It knows nothing of blocks, epochs or rows, and it isn't compacted: a key names a table
shard, not a row, so only age may remove records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rillet.sync.errors import PositionOutOfRangeError


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record. Positions rise from record to record, not always by one."""

    position: int
    key: bytes
    value: bytes


class DeltaLog(Protocol):
    """What publisher and replica need of a log."""

    def append(self, key: bytes, value: bytes) -> None:
        """Queues a record behind those queued before.

        :raises LogUnavailableError: the queue is full and stays so; nothing that is queued is known to have arrived.
        """

    def flush(self, timeout_s: float) -> None:
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

    def __init__(self) -> None:
        self._records: list[LogRecord] = []
        self._queue: list[tuple[bytes, bytes]] = []
        self._begin = 0
        self._end = 0

    def append(self, key: bytes, value: bytes) -> None:
        """Queues a record."""
        self._queue.append((key, value))

    def flush(self, timeout_s: float) -> None:
        """Moves the queue to the log."""
        queue, self._queue = self._queue, []
        for key, value in queue:
            self._records.append(LogRecord(self._end, key, value))
            self._end += 1

    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        """Records from ``position`` on; never waits."""
        if not self._begin <= position <= self._end:
            raise PositionOutOfRangeError(position, self._begin, self._end)
        first = position - self._begin
        return self._records[first : first + max_records]

    def begin(self) -> int:
        """Position of the oldest record kept."""
        return self._begin

    def end(self) -> int:
        """Position after the newest record."""
        return self._end

    def truncate(self, begin: int) -> None:
        """Forgets the records below ``begin``, as retention does."""
        if not self._begin <= begin <= self._end:
            raise PositionOutOfRangeError(begin, self._begin, self._end)
        del self._records[: begin - self._begin]
        self._begin = begin

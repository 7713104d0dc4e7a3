"""A log with a bad network in front of it, and small tables to publish."""

from __future__ import annotations

import numpy as np

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import BackpressureError, EpochClaim, encode
from rillet.schemas.arrays import Int64s
from rillet.sync import LogRecord, LogUnavailableError, MemoryLog, TableShard

DIM = 3
#: rows of a table that is published
FIDS = np.arange(1, 26, dtype=np.int64)
MODEL_HASH = 0x5EC
TABLE_SHARD = TableShard("m", MODEL_HASH)


class WriterLink:
    """One writer's connection to a shared log. ``fate`` decides the next commit; faults happen here only.

    fate: "ok", "lost_ack" (all arrives, the writer is told it did not), "partial" (a prefix arrives),
    "nothing", "late" (nothing arrives until :meth:`deliver_late`), "doubled" (each record twice).
    It is full at ``max_queued`` records.
    """

    def __init__(self, shared: MemoryLog, rng: np.random.Generator, max_queued: int = 1000) -> None:
        self.shared = shared
        self.max_queued = max_queued
        self.fate = "ok"
        self._rng = rng
        self._queue: list[tuple[bytes, bytes]] = []
        self._late: list[tuple[bytes, bytes]] = []

    def start(self) -> None:
        pass

    def append(self, key: bytes, value: bytes) -> None:
        if len(self._queue) >= self.max_queued:
            raise BackpressureError(f"{self.max_queued} records are queued")
        self._queue.append((key, value))

    def commit(self, timeout_s: float) -> None:
        queue, self._queue = self._queue, []
        fate, self.fate = self.fate, "ok"
        if fate == "partial":
            self._send(queue[: int(self._rng.integers(0, len(queue) + 1))])
        elif fate == "late":
            self._late += queue
        elif fate != "nothing":
            self._send([record for record in queue for _ in range(2 if fate == "doubled" else 1)])
        if fate not in ("ok", "doubled"):
            raise LogUnavailableError(f"simulated: {fate}")

    def close(self) -> None:
        self._queue = []

    def deliver_late(self) -> None:
        """What was still on its way arrives now."""
        late, self._late = self._late, []
        self._send(late)

    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        return self.shared.read(position, max_records, timeout_s)

    def begin(self) -> int:
        return self.shared.begin()

    def end(self) -> int:
        return self.shared.end()

    def _send(self, records: list[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            self.shared.append(key, value)
        self.shared.commit(0.0)


def damage(log: MemoryLog, position: int) -> None:
    """Flips a bit in the middle of a record that lies in the log."""
    index = position - log.begin()
    record = log._records[index]
    value = bytearray(record.value)
    value[len(value) * 2 // 3] ^= 0x10
    log._records[index] = LogRecord(record.position, record.key, bytes(value))


def lose(log: MemoryLog, position: int) -> None:
    """Takes a record out of the log; one of another model stands in its place, since positions have no holes here."""
    index = position - log.begin()
    other = encode(EpochClaim("another model", 0, 1, MODEL_HASH, "another writer"))
    log._records[index] = LogRecord(position, b"claim|0", other)


def trainer_table(fids: Int64s | None = None) -> EmbeddingTable:
    """A table that tracks what was touched, with rows of ``fids``."""
    table = EmbeddingTable(DIM, TableConfig(initial_capacity=64, chunk_rows=64), track_touched=True)
    if fids is not None:
        table.find_or_insert(fids, 0)
    return table


def same_rows(left: EmbeddingTable, right: EmbeddingTable) -> bool:
    """Whether two tables hold the same fids and, bit for bit, the same embeddings."""
    (left_fids, left_rows), (right_fids, right_rows) = left.items(), right.items()
    return np.array_equal(left_fids, right_fids) and left_rows.tobytes() == right_rows.tobytes()

"""How Flink runs the joiner, pure values; checked here, read from ``[flink]`` of the configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rillet.schemas.ranges import check_above_zero, check_not_negative


def joiner_name(examples: str) -> str:
    """Begins the consumer groups and transactional ids of a joiner: joiners that write other topics never meet.

    :param examples: the topic that it writes.

    >>> joiner_name("films.examples")
    'rillet-joiner-films.examples'
    """
    return f"rillet-joiner-{examples}"


def joiner_group(examples: str, kind: Literal["features", "actions"]) -> str:
    """The consumer group under which a joiner commits how far its checkpoints have read features or actions."""
    return f"{joiner_name(examples)}-{kind}"


@dataclass(frozen=True, slots=True)
class FlinkConfig:
    """How Flink runs the joiner. The join itself is `[joiner]`."""

    #: subtasks that join at a time; in thread mode each wants a TaskManager of its own (one Python interpreter per process)
    parallelism: int = 1
    #: where Python runs: in a thread of the TaskManager, or in a process beside it; the rows are the same, threads are faster
    execution_mode: Literal["thread", "process"] = "thread"
    #: where Flink keeps the joiner's state: on local disk, or in the Java heap, which it then has to fit into
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    #: memory of the Java heap of one process that runs tasks; with state_backend "hashmap" the state has to fit in it too
    heap_bytes: int = 1200 << 20
    #: memory of one process that runs tasks in which RocksDB holds the joiner's state, for caches and what is not written yet
    managed_bytes: int = 256 << 20
    #: wall clock between two checkpoints; examples can be read once the checkpoint after them is complete
    checkpoint_interval_ms: int = 5_000
    #: a checkpoint that takes longer has failed
    checkpoint_timeout_ms: int = 120_000
    #: checkpoints that may fail one after the other before the job is restarted from the last complete one
    tolerated_failed_checkpoints: int = 3
    #: complete checkpoints of the running job that stay on disk
    retained_checkpoints: int = 2
    #: earlier runs of `rillet join` of which the last savepoint or checkpoint stays on disk, that which a start goes on from
    #: among them
    keep_savepoints: int = 1
    #: rows of an open transaction that is older are lost: at most the broker's transaction.max.timeout.ms, which is 15
    #: minutes unless it was raised, and enough for all tolerated checkpoints to fail
    transaction_timeout_ms: int = 900_000
    #: how far out of order events may come: the watermark, by which windows close, follows the newest event time of each
    #: partition at this distance
    lateness_ms: int = 30_000
    #: wall clock: a partition without records for so long, and two checkpoints, no longer holds the watermark back; its topic
    #: as a whole does, see hold_ms
    idle_ms: int = 30_000
    #: how far in event time windows may close behind the watermark while nothing comes to one of the two topics, whose
    #: producer may hold records back; 0 = not at all
    hold_ms: int = 3_600_000
    #: how far one partition may be read ahead of the others in event time, so that catching up on old
    #: records needs no more memory than following live ones; 0 = no limit
    max_drift_ms: int = 600_000
    #: process mode only: longest wait for a bundle to fill
    bundle_time_ms: int = 50
    #: restarts after failures that follow each other before the job ends, 1 s after the first and up to 2 min after later
    #: ones; 0 = end with the first
    max_restarts: int = 20
    #: a job that ran for so long without a failure has made progress: its restarts are counted anew
    stable_ms: int = 300_000

    def __post_init__(self) -> None:
        check_above_zero(
            self, "parallelism", "heap_bytes", "managed_bytes", "checkpoint_interval_ms", "checkpoint_timeout_ms"
        )
        check_above_zero(self, "retained_checkpoints", "keep_savepoints", "transaction_timeout_ms", "idle_ms")
        check_above_zero(self, "bundle_time_ms", "stable_ms")
        check_not_negative(
            self, "tolerated_failed_checkpoints", "lateness_ms", "hold_ms", "max_drift_ms", "max_restarts"
        )
        if self.longest_transaction_ms > self.transaction_timeout_ms:
            raise ValueError(
                f"transaction_timeout_ms: {self.transaction_timeout_ms} is less than a transaction may stay open while"
                f" checkpoints fail ({self.longest_transaction_ms} ms: tolerated_failed_checkpoints + 1 times"
                " checkpoint_interval_ms or checkpoint_timeout_ms, whichever is longer, and one checkpoint_timeout_ms), and the"
                " broker would drop its rows; lower one of those, or raise this and the broker's transaction.max.timeout.ms"
            )

    @property
    def longest_transaction_ms(self) -> int:
        """How long a row waits at most for the checkpoint that commits it, in a job that is not restarted."""
        between_ms = max(self.checkpoint_interval_ms, self.checkpoint_timeout_ms)
        return (self.tolerated_failed_checkpoints + 1) * between_ms + self.checkpoint_timeout_ms

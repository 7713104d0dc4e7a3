"""How Flink runs the joiner, pure values; checked here, read from ``[flink]`` of the configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rillet.schemas.ranges import check_above_zero, check_at_most, check_not_negative

MAX_CHECKPOINT_INTERVAL_MS = 300_000


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
    #: wall clock between two checkpoints; examples can be read once the checkpoint after them is complete
    checkpoint_interval_ms: int = 5_000
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
    #: restarts before the job fails; 0 = fail at once
    max_restarts: int = 10

    def __post_init__(self) -> None:
        check_above_zero(self, "parallelism", "checkpoint_interval_ms", "idle_ms", "bundle_time_ms")
        # A transaction stays open from one checkpoint to the next, and the broker aborts one that is too old.
        check_at_most(self, MAX_CHECKPOINT_INTERVAL_MS, "checkpoint_interval_ms")
        check_not_negative(self, "lateness_ms", "hold_ms", "max_drift_ms", "max_restarts")

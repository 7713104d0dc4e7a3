"""How Flink runs the joiner, pure values; checked here, read from ``[flink]`` of the configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rillet.schemas.ranges import check_above_zero, check_at_most, check_not_negative

MAX_CHECKPOINT_INTERVAL_MS = 300_000

#: begins the transactional ids of the joiner, and its consumer groups: this, "-" and the name of the table
JOINER_PREFIX = "rillet-joiner"


@dataclass(frozen=True, slots=True)
class FlinkConfig:
    """Settings of the Flink job around the join. The join itself is ``[joiner]``."""

    #: subtasks of the keyed join; in thread mode each wants a TaskManager of its own (one GIL per process)
    parallelism: int = 1
    execution_mode: Literal["thread", "process"] = "thread"
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    checkpoint_interval_ms: int = 5_000
    #: how far event times may lie before the newest one of their partition; the watermark follows at this distance
    lateness_ms: int = 30_000
    #: a partition without records for this long, wall clock, no longer holds the watermark back
    idle_ms: int = 30_000
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
        check_not_negative(self, "lateness_ms", "max_drift_ms", "max_restarts")

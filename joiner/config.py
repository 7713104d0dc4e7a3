"""Settings of the joiner, pure values; checked here, read from ``[joiner]`` of the configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_CHECKPOINT_INTERVAL_MS = 300_000


@dataclass(frozen=True, slots=True)
class JoinerConfig:
    """How the join runs. What is joined (tasks, windows, rates) is the feature spec's business."""

    #: subtasks of the keyed join; in thread mode each wants a TaskManager of its own (one GIL a process)
    parallelism: int = 1
    #: request keys are hashed into this many buckets, the unit of keyed state and of rescaling
    buckets: int = 16
    #: time is cut into slices of this length, negatives of a slice go out together;
    #: 0 = a sixteenth of the longest time that a slice is kept
    slice_ms: int = 0
    #: how far event times may run behind the newest one of their partition before they are late
    lateness_ms: int = 30_000
    #: how long, in event time, an action waits for a feature event that has not come yet
    action_wait_ms: int = 600_000
    #: how long a slice is kept past its last window for tasks that emit late positives
    late_retention_ms: int = 3_600_000
    #: feature events held in memory, by estimate; older slices spill to disk beyond it
    memory_bytes: int = 256 << 20
    #: rows of an example block of negatives
    block_rows: int = 256
    #: what the end of bounded input and ``stop --drain`` do to windows that are still open
    negatives_at_end: Literal["emit", "discard"] = "emit"
    #: event times further than this ahead of the wall clock at ingestion are refused
    max_ahead_ms: int = 86_400_000

    # Below: how Flink runs it.
    execution_mode: Literal["thread", "process"] = "thread"
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    checkpoint_interval_ms: int = 5_000
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
        for name in [
            "parallelism",
            "buckets",
            "action_wait_ms",
            "memory_bytes",
            "block_rows",
            "checkpoint_interval_ms",
            "idle_ms",
            "bundle_time_ms",
        ]:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, is {getattr(self, name)}")
        if self.buckets > 65_535:
            raise ValueError(f"buckets must be at most 65535, is {self.buckets}")
        if self.checkpoint_interval_ms > MAX_CHECKPOINT_INTERVAL_MS:
            # A transaction stays open from one checkpoint to the next, and the broker aborts one that is too old.
            raise ValueError(
                f"checkpoint_interval_ms must be at most {MAX_CHECKPOINT_INTERVAL_MS}, is {self.checkpoint_interval_ms}"
            )
        for name in ("slice_ms", "lateness_ms", "late_retention_ms", "max_ahead_ms", "max_drift_ms", "max_restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, is {getattr(self, name)}")

"""Settings of the join, pure values; checked here, read from ``[joiner]`` of the configuration file.

How Flink runs the join is ``[flink]``, in ``operators/flink_config.py``; what is joined (tasks, windows, rates)
is the feature spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rillet.schemas import MAX_AHEAD_MS, MAX_BLOCK_BYTES
from rillet.schemas.ranges import check_above_zero, check_at_most, check_not_negative

#: the engine has so many groups of keys, of which each bucket needs one
MAX_BUCKETS = 1_024
#: of RocksDB below the disk tier of one subtask: write buffers and block cache
DISK_TIER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class JoinerConfig:
    """How the join works through its events; none of it changes a label of an event that is not late."""

    #: requests are hashed into so many buckets, the unit in which state and work are spread over subtasks: ten per subtask and
    #: partition of examples are even enough. Each closes its windows alone, so more of them cost time where traffic is low
    buckets: int = 128
    #: event time is cut into slices of this length; the label windows of a slice close together.
    #: 0 = a sixteenth of the longest time that a slice is kept
    slice_ms: int = 0
    #: how long, in event time, an action waits for a feature event that has not come yet
    action_wait_ms: int = 600_000
    #: memory of the actions that wait, by estimate, all buckets together; each bucket has an equal share, and an action
    #: beyond it is a dead letter
    waiting_bytes: int = 256 << 20
    #: how long a slice is kept past its last window for tasks that emit late positives
    late_retention_ms: int = 3_600_000
    #: feature events held in memory, by estimate; those of older slices leave it beyond that
    memory_bytes: int = 256 << 20
    #: keep what leaves memory in a RocksDB of the task's own, and ask the engine's state only for what is not there
    disk_tier: bool = True
    #: the most rows of an example block
    block_rows: int = 256
    #: the most bytes of an example block; more where the context of a request takes over half of them, so that it is not
    #: written again with each of its rows
    block_bytes: int = 1 << 20
    #: what the end of bounded input and ``stop --drain`` do to the negatives of windows that are still open
    negatives_at_end: Literal["emit", "discard"] = "emit"
    #: event times that lie further than this after their record entered the topic are refused
    max_ahead_ms: int = MAX_AHEAD_MS

    def __post_init__(self) -> None:
        check_above_zero(
            self, "buckets", "action_wait_ms", "waiting_bytes", "memory_bytes", "block_rows", "block_bytes"
        )
        check_at_most(self, MAX_BUCKETS, "buckets")
        check_at_most(self, MAX_BLOCK_BYTES, "block_bytes")
        check_not_negative(self, "slice_ms", "late_retention_ms", "max_ahead_ms")

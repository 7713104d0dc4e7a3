"""Slice arithmetic: when a slice of feature times closes for each task, and when it is forgotten.

Slice s holds the feature events with ``s * slice_ms <= event_time_ms < (s + 1) * slice_ms``. It closes for
a task at the first watermark that promises that no action inside one of its windows is still to come.
"""

from __future__ import annotations

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError
from rillet.schemas import FeatureSpec, RecordError

#: each slice alive costs a column family on disk, and 16 bytes in the header of each bucket
MAX_LIVE_SLICES = 256
#: how many slices a bucket may have open, of requests and of waiting actions each. A stream in order has half at most. The
#: rest is for topics that are read apart, or held back. The header names each, and is written with every new one.
MAX_OPEN_SLICES = 2 * MAX_LIVE_SLICES
_DEFAULT_SLICES = 16


class SliceSchedule:
    """Close and expiry times of slices under one spec and configuration.

    :raises JoinerError: slices so short that too many would live at once; actions that would not wait for as long as
        a task says that they may be early.
    """

    def __init__(self, spec: FeatureSpec, config: JoinerConfig) -> None:
        #: how long after the end of a slice its negatives go out, by task
        self.closes_ms = tuple(task.closes_ms for task in spec.tasks)
        self.action_wait_ms = config.action_wait_ms
        early = max(spec.tasks, key=lambda task: task.early_ms)
        if early.early_ms > config.action_wait_ms:
            raise JoinerError(
                f"[joiner] action_wait_ms: {config.action_wait_ms} is less than early_ms of task {early.name} in the "
                f"feature spec, {early.early_ms}: an action so early would be given up before its feature event comes; "
                f"raise action_wait_ms or lower early_ms"
            )
        #: how long a slice is kept past its end
        self.kept_ms = max(
            task.window_ms + (config.late_retention_ms if task.late != "drop" else 0) for task in spec.tasks
        )
        longest_ms = max(self.kept_ms, self.action_wait_ms)
        self.slice_ms = config.slice_ms or max(1_000, longest_ms // _DEFAULT_SLICES)
        #: how many slices are alive at once on a stream in order
        self.live_slices = longest_ms // self.slice_ms + 2
        if self.live_slices > MAX_LIVE_SLICES:
            raise JoinerError(
                f"[joiner] slice_ms: slices of {self.slice_ms} ms kept for {longest_ms} ms are {self.live_slices}, at most "
                f"{MAX_LIVE_SLICES} may live at once: set {-(-longest_ms // (MAX_LIVE_SLICES - 2))} or more, or 0"
            )

    def slice_of(self, event_time_ms: int) -> int:
        """The slice that an event time falls into."""
        return event_time_ms // self.slice_ms

    def check_room(self, open_slices: int, event_time_ms: int) -> None:
        """What a bucket's header costs is bounded, whatever times events name.

        :param open_slices: of the bucket, the slice of the event not among them.
        :raises RecordError: the bucket has as many slices open as it may.
        """
        if open_slices >= MAX_OPEN_SLICES:
            raise RecordError(
                f"event_time_ms: {event_time_ms} would open slice {open_slices + 1:,} of its bucket, "
                f"at most {MAX_OPEN_SLICES:,} may be open: are its times spread over years, or is [joiner] slice_ms "
                f"({self.slice_ms}) too short for how far apart the topics are read ([flink] max_drift_ms)?"
            )

    def close_ms(self, slice_: int, task: int) -> int:
        """The watermark at which a slice's label windows of a task are closed."""
        return (slice_ + 1) * self.slice_ms + self.closes_ms[task] - 1

    def expiry_ms(self, slice_: int) -> int:
        """The watermark at which a slice is forgotten; not before its last close."""
        return (slice_ + 1) * self.slice_ms + self.kept_ms - 1

    def waiting_expiry_ms(self, slice_: int) -> int:
        """The watermark at which actions of a slice stop waiting for their feature event."""
        return (slice_ + 1) * self.slice_ms + self.action_wait_ms - 1

    def first_after(self, time_ms: int, task: int) -> int:
        """The earliest slice that closes for a task after a time."""
        return (time_ms + 1 - self.closes_ms[task]) // self.slice_ms

    def close_at(self, time_ms: int, task: int) -> int | None:
        """The slice that closes for a task exactly at a time."""
        slice_, rest = divmod(time_ms + 1 - self.closes_ms[task], self.slice_ms)
        return None if rest else slice_ - 1

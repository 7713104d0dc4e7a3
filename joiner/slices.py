"""Slice arithmetic: when a slice of feature times closes for each task, and when it is forgotten.

Slice s holds the feature events with ``s * slice_ms <= event_time_ms < (s + 1) * slice_ms``. It closes for
a task at the first watermark after which no action can still fall into a window of that task.
"""

from __future__ import annotations

from joiner.config import JoinerConfig
from schemas import FeatureSpec


class Timeline:
    """Close and expiry times of slices under one spec and configuration."""

    def __init__(self, spec: FeatureSpec, config: JoinerConfig) -> None:
        self.slice_ms = config.slice_ms
        self.windows_ms = tuple(task.window_ms for task in spec.tasks)
        self._action_wait_ms = config.action_wait_ms
        self._kept_ms = max(
            task.window_ms + (config.late_retention_ms if task.late == "emit" else 0) for task in spec.tasks
        )

    def slice_of(self, event_time_ms: int) -> int:
        """The slice that an event time falls into."""
        return event_time_ms // self.slice_ms

    def close_ms(self, slice_: int, task: int) -> int:
        """The watermark at which a slice's unresolved impressions become negatives of a task."""
        return (slice_ + 1) * self.slice_ms + self.windows_ms[task] - 1

    def expiry_ms(self, slice_: int) -> int:
        """The watermark at which a slice is forgotten; not before its last close."""
        return (slice_ + 1) * self.slice_ms + self._kept_ms - 1

    def waiting_expiry_ms(self, slice_: int) -> int:
        """The watermark at which actions of a slice stop waiting for their feature event."""
        return (slice_ + 1) * self.slice_ms + self._action_wait_ms - 1

    def timers_ms(self, slice_: int) -> set[int]:
        """Every watermark at which something happens to a slice of features."""
        return {self.close_ms(slice_, task) for task in range(len(self.windows_ms))} | {self.expiry_ms(slice_)}

    @property
    def live_slices(self) -> int:
        """How many slices are alive at once on a stream in order."""
        return max(self._kept_ms, self._action_wait_ms) // self.slice_ms + 2

"""A range of requests to be joined again, by event time, and which events of the topics its rows are made of."""

from __future__ import annotations

from dataclasses import dataclass

from rillet.joiner.config import JoinerConfig
from rillet.joiner.slices import SliceSchedule
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec


@dataclass(frozen=True, slots=True)
class RequestRange:
    """Requests from one time, inclusive, until another one, exclusive; milliseconds of event time.

    :raises ValueError: it holds no time.
    """

    from_ms: int
    until_ms: int

    def __post_init__(self) -> None:
        if self.from_ms >= self.until_ms:
            raise ValueError("--until has to be a later time than --from")

    def wants(self, event: FeatureEvent | ActionEvent, spec: FeatureSpec) -> bool:
        """Whether a row of the range can depend on an event."""
        if isinstance(event, FeatureEvent):
            return self.from_ms <= event.event_time_ms < self.until_ms
        early_ms = max(task.early_ms for task in spec.tasks)
        longest_ms = max(task.window_ms for task in spec.tasks)
        return self.from_ms - early_ms <= event.event_time_ms < self.until_ms + longest_ms

    def read_from_ms(self, spec: FeatureSpec, config: JoinerConfig) -> int:
        """Record timestamp from which on its events may lie: they are ahead of when they entered a topic by
        ``max_ahead_ms`` at most."""
        return max(0, self.from_ms - max(task.early_ms for task in spec.tasks) - config.max_ahead_ms)

    def read_until_ms(self, spec: FeatureSpec, config: JoinerConfig, lateness_ms: int) -> int:
        """Record timestamp at which the last of its windows is closed: what comes later changes no row of it."""
        schedule = SliceSchedule(spec, config)
        return self.until_ms + schedule.slice_ms + max(task.window_ms for task in spec.tasks) + lateness_ms

    def settled_ms(self, config: JoinerConfig) -> int:
        """Watermark from which on no feature event of the range is waited for: actions that wait are of other requests."""
        return self.until_ms + config.action_wait_ms

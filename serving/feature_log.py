"""Where served features go so that what is trained on is what was served: the protocol, and the counting in front.

The Kafka log is ``jobs``' business; a log that is full or broken costs training data, never an answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rillet.schemas import BackpressureError, FeatureEvent, RilletError
from rillet.serving.report import Reporter

log = logging.getLogger(__name__)


class FeatureLog(Protocol):
    """A bounded queue to somewhere durable."""

    @property
    def failed(self) -> int:
        """Events that ``submit`` took and that could not be delivered, so far."""

    @property
    def last_error(self) -> str:
        """Why an event was last refused or lost, empty if none was."""

    def submit(self, event: FeatureEvent, /) -> None:
        """Queues an event without blocking.

        :raises BackpressureError: the queue is full; the event is not in it.
        """

    def flush(self, timeout_s: float, /) -> None:
        """Waits for delivery.

        :raises RilletError: something is undelivered after ``timeout_s``, or was lost before.
        """


class MemoryFeatureLog:
    """A list of at most ``capacity`` events, for tests and for serving without a broker."""

    def __init__(self, capacity: int) -> None:
        self.events: list[FeatureEvent] = []
        self.failed = 0
        self.last_error = ""
        self._capacity = capacity

    def submit(self, event: FeatureEvent) -> None:
        if len(self.events) >= self._capacity:
            self.last_error = f"the memory feature log is full at {self._capacity} events"
            raise BackpressureError(self.last_error)
        self.events.append(event)

    def flush(self, timeout_s: float) -> None:
        """Everything is where it will ever be."""


class FeatureRecorder(Collector):
    """Appends to a feature log; counts what it refuses and says so at most once in ten seconds."""

    def __init__(
        self, target: FeatureLog, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """:param clock: monotonic seconds."""
        self._target = target
        self._reporter = Reporter(log, clock)
        events = Counter(
            "rillet_serving_feature_events",
            "Served requests by what became of their feature event.",
            ["result"],
            registry=registry,
        )
        self._appended = events.labels("appended")
        self._refused = events.labels("refused")
        registry.register(self)

    def record(self, event: FeatureEvent) -> bool:
        """Whether the log took the event."""
        try:
            self._target.submit(event)
            taken, reason = True, ""
        except BackpressureError as error:
            taken, reason = False, str(error)
        # Whatever a log raises, the scores are computed and the client gets them.
        except Exception as error:
            taken, reason = False, f"{type(error).__name__}: {error}"
        if taken:
            self._appended.inc()
        else:
            self._refused.inc()
            self._reporter.error("refused", "feature log refused an event, it will not be trained on: %s", reason)
        return taken

    def flush(self, timeout_s: float) -> bool:
        """Waits for delivery; whether everything arrived. What did not is logged."""
        try:
            self._target.flush(timeout_s)
        except RilletError as error:
            log.error("feature log: served requests are missing from it and will not be trained on: %s", error)
            return False
        return True

    def collect(self) -> list[CounterMetricFamily]:
        return [
            CounterMetricFamily(
                "rillet_serving_feature_events_lost",
                "Feature events that the log took and could not deliver.",
                value=self._target.failed,
            )
        ]

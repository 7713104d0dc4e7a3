"""Where served features go so that what is trained on is what was served: the protocol, and the counting in front.

The log on Kafka is in ``connectors``; a log that is full or broken costs training data, never an answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rillet.schemas import BackpressureError, ClosedError, FeatureEvent, Sink
from rillet.serving.errors import ServingError
from rillet.serving.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)


class FeatureLog(Sink[FeatureEvent], Protocol):
    """A bounded queue to somewhere durable.

    ``tests/contracts/test_feature_log.py`` holds what every implementation has to do.
    """

    @property
    def failed(self) -> int:
        """Events that ``submit`` took and that were lost, so far: not delivered, or not flushed before ``close``."""


class MemoryFeatureLog:
    """A list of at most ``capacity`` events, for tests and for serving without a broker.

    >>> import numpy as np
    >>> from rillet.schemas import BackpressureError, FeatureEvent
    >>> ids = np.array([1])
    >>> features = MemoryFeatureLog(capacity=1)
    >>> features.submit(FeatureEvent("r1", 0, 0, ids, ids, ids))
    >>> try:
    ...     features.submit(FeatureEvent("r2", 0, 0, ids, ids, ids))
    ... except BackpressureError as error:
    ...     print(error)
    the memory feature log is full at 1 events
    >>> [event.request_id for event in features.events]
    ['r1']
    """

    def __init__(self, capacity: int) -> None:
        self.events: list[FeatureEvent] = []
        self._capacity = capacity
        self._closed = False

    @property
    def failed(self) -> int:
        """None is ever lost."""
        return 0

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, event: FeatureEvent, /) -> None:
        """Appends an event.

        :raises BackpressureError: ``capacity`` events are in it.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError("the memory feature log is closed")
        if len(self.events) >= self._capacity:
            raise BackpressureError(f"the memory feature log is full at {self._capacity} events")
        self.events.append(event)

    def flush(self, timeout_s: float) -> None:
        """Everything is where it will ever be: returns at once."""

    def close(self) -> None:
        """Takes no more events; those taken stay readable."""
        self._closed = True


class FeatureRecorder(Collector):
    """A ``Sink[FeatureEvent]`` in front of a feature log: counts what the log refuses or loses, and logs it.

    It owns the log: starting, flushing and closing the recorder does so with the log.
    """

    def __init__(
        self, target: FeatureLog, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """:param clock: monotonic seconds."""
        self._target = target
        self._limited_log = RateLimitedLog(log, clock)
        events = Counter(
            "rillet_serving_feature_events",
            "Served requests by what became of their feature event.",
            ["result"],
            registry=registry,
        )
        self._submitted = events.labels("appended")
        self._refused = events.labels("refused")
        self._refusals = 0
        registry.register(self)

    def start(self) -> None:
        """Starts the feature log."""
        self._target.start()

    def submit(self, event: FeatureEvent, /) -> None:
        """Hands an event to the feature log.

        :raises BackpressureError: the log did not take it, for whatever reason; it was counted, and the reason logged.
        :raises ClosedError: after :meth:`close`.
        """
        try:
            self._target.submit(event)
        except ClosedError:
            raise
        # Whatever a log raises, the scores are computed and the client gets them.
        except Exception as error:
            reason = str(error) if isinstance(error, BackpressureError) else f"{type(error).__name__}: {error}"
            self._refused.inc()
            self._refusals += 1
            self._limited_log.error("refused", "feature log refused an event, it will not be trained on: %s", reason)
            raise BackpressureError(reason) from error
        self._submitted.inc()

    def flush(self, timeout_s: float) -> None:
        """Waits until the log has delivered everything.

        :raises RilletError: it has not, within ``timeout_s``, or events were refused or lost since the start: they
            will not be trained on.
        """
        self._target.flush(timeout_s)
        if self._refusals:
            raise ServingError(f"the feature log refused {self._refusals} events; they will not be trained on")

    def close(self) -> None:
        """Closes the feature log; says how many events were given up with it."""
        failed = self._target.failed
        self._target.close()
        if lost := self._target.failed - failed:
            log.error("%d feature events were not delivered before the end; they will not be trained on", lost)

    def collect(self) -> list[CounterMetricFamily]:
        return [
            CounterMetricFamily(
                "rillet_serving_feature_events_lost",
                "Feature events that the log took and could not deliver.",
                value=self._target.failed,
            )
        ]

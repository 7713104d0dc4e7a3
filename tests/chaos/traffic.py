"""Events for the scenarios, and a thread that sends them at a steady pace whatever happens to the broker meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from rillet.connectors.config import TopicNames
from rillet.connectors.producers import EventProducer
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec
from rillet.schemas.conversion import SpecConversion
from tests.joiner.specs import LIKE, SHARE, WATCH
from tests.joiner.support import SPEC, action, feature

Event = FeatureEvent | ActionEvent

#: a task of each label mode, whose windows are 10 s, 60 s and 30 s
MODES = replace(SPEC, tasks=(WATCH, replace(LIKE, labels="aligned"), SHARE))
START_MS = 1_000_000_000_000
IMPRESSIONS = 5
_IN_FLIGHT = 5_000


def make_events(requests: int, span_ms: int, seed: int = 3, spec: FeatureSpec = MODES) -> list[Event]:
    """Requests at equal distances over ``span_ms``, their actions after them; in order of event time."""
    rng = np.random.default_rng(seed)
    conversion = SpecConversion(SPEC, spec)
    events: list[Event] = []
    for request in range(requests):
        shown = feature(request, START_MS + request * span_ms // requests, impressions=IMPRESSIONS)
        events.append(conversion.feature(shown))
        for index in range(IMPRESSIONS):
            for name, share, within_ms in (("watch", 0.2, 12_000), ("like", 0.1, 70_000), ("share", 0.1, 40_000)):
                if rng.random() < share:
                    events.append(action(request, index, name, shown.event_time_ms + int(rng.integers(0, within_ms))))
    return sorted(events, key=lambda event: event.event_time_ms)


class Traffic:
    """Sends events in the background; as a context it is waited for, and fails if a record was lost."""

    def __init__(self, servers: str, topics: TopicNames, events: Sequence[Event], speed: float | None) -> None:
        """:param speed: seconds of event time per second; None for as fast as the broker takes them."""
        self._servers, self._topics, self._events, self._speed = servers, topics, events, speed
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self._ended.set()
        self._thread.join(180)
        assert error is not None or not self._thread.is_alive(), "the traffic does not end"
        if self._error is not None and error is None:
            raise self._error

    @property
    def now_ms(self) -> int:
        """Event time of what is sent now."""
        return self._events[min(self.sent, len(self._events) - 1)].event_time_ms

    def wait_for(self, share: float, timeout_s: float = 240.0) -> None:
        """Waits until so much of it was sent."""
        wait_until(lambda: self.sent >= share * len(self._events), timeout_s, f"{share:.0%} of the traffic")

    def _run(self) -> None:
        try:
            with (
                EventProducer(self._servers, self._topics.features) as features,
                EventProducer(self._servers, self._topics.actions) as actions,
            ):
                self._send(features, actions)
                features.flush(120)
                actions.flush(120)
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def _send(self, features: EventProducer, actions: EventProducer) -> None:
        started, first_ms = time.monotonic(), self._events[0].event_time_ms
        for event in self._events:
            if self._speed is not None:
                ahead_s = (event.event_time_ms - first_ms) / 1_000 / self._speed - (time.monotonic() - started)
                if ahead_s > 0:
                    self._ended.wait(ahead_s)
            producer = features if isinstance(event, FeatureEvent) else actions
            while len(producer) >= _IN_FLIGHT and not self._ended.is_set():
                time.sleep(0.01)
            if self._ended.is_set():
                return
            producer.submit(event)
            self.sent += 1


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, *, pause_s: float = 0.2) -> float:
    """Asks until it is so; how many seconds that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"{what}: not after {timeout_s:.0f} s"
        time.sleep(pause_s)
    return time.monotonic() - started

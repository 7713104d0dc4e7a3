"""What every feature log must do, run against each implementation; and implementations that must not pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import pytest

from rillet.connectors.producers import EventProducer
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import BackpressureError, ClosedError, FeatureEvent, decode_as
from rillet.serving.feature_log import FeatureLog, MemoryFeatureLog

CAPACITY = 3
WAIT_S = 20.0


class Place(Protocol):
    """Where a log writes to."""

    def log(self) -> FeatureLog:
        """A log with room for ``CAPACITY`` events that does not deliver before it is flushed; not started."""

    def request_ids(self) -> list[str]:
        """What arrived, in order."""


class Memory:
    """A log in memory."""

    def __init__(self, kind: type[MemoryFeatureLog] = MemoryFeatureLog) -> None:
        self._log = kind(CAPACITY)

    def log(self) -> FeatureLog:
        return self._log

    def request_ids(self) -> list[str]:
        return [event.request_id for event in self._log.events]


class Kafka:
    """A topic."""

    def __init__(self, broker: str, topic: str) -> None:
        self._broker = broker
        self._topic = topic

    def log(self) -> FeatureLog:
        return EventProducer(self._broker, self._topic, max_queue_records=CAPACITY, linger_ms=60_000)

    def request_ids(self) -> list[str]:
        return [
            decode_as(FeatureEvent, record.value or b"").request_id for record in read_topic(self._broker, self._topic)
        ]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield Memory()
    else:
        yield Kafka(request.getfixturevalue("broker"), request.getfixturevalue("topics")("features"))


def _event(request_id: str) -> FeatureEvent:
    return FeatureEvent(request_id, 1_000, 7, np.array([1]), np.array([5, 6]), np.array([2, 3]))


def _fill(log: FeatureLog, count: int = CAPACITY) -> list[str]:
    names = [f"r{number}" for number in range(count)]
    for name in names:
        log.submit(_event(name))
    return names


def what_was_submitted_has_arrived_after_a_flush(place: Place) -> None:
    log = place.log()
    log.start()
    names = _fill(log)
    log.flush(WAIT_S)
    assert place.request_ids() == names
    assert log.failed == 0
    log.close()


def a_full_log_says_so_at_once_and_takes_nothing(place: Place) -> None:
    log = place.log()
    log.start()
    names = _fill(log)
    started = time.monotonic()
    with pytest.raises(BackpressureError):
        log.submit(_event("too many"))
    assert time.monotonic() - started < 0.5
    log.flush(WAIT_S)
    assert place.request_ids() == names
    assert log.failed == 0
    log.close()


def flushing_nothing_returns(place: Place) -> None:
    log = place.log()
    log.start()
    log.flush(0.0)
    log.close()


def what_closing_gave_up_is_counted(place: Place) -> None:
    log = place.log()
    log.start()
    names = _fill(log)
    log.close()
    assert log.failed + len(place.request_ids()) >= len(names)
    assert log.failed <= len(names)


def closing_twice_is_closing_once(place: Place) -> None:
    log = place.log()
    log.start()
    _fill(log, 1)
    log.flush(WAIT_S)
    log.close()
    log.close()
    assert log.failed == 0


def nothing_is_taken_after_closing(place: Place) -> None:
    log = place.log()
    log.start()
    log.close()
    with pytest.raises(ClosedError):
        log.submit(_event("late"))
    assert place.request_ids() == []


def a_log_may_be_closed_without_a_start(place: Place) -> None:
    place.log().close()


Check = Callable[[Place], None]
CHECKS: list[Check] = [
    what_was_submitted_has_arrived_after_a_flush,
    a_full_log_says_so_at_once_and_takes_nothing,
    flushing_nothing_returns,
    what_closing_gave_up_is_counted,
    closing_twice_is_closing_once,
    nothing_is_taken_after_closing,
    a_log_may_be_closed_without_a_start,
]


@pytest.mark.parametrize("check", CHECKS)
def test_a_feature_log(place: Place, check: Check) -> None:
    check(place)


# -- implementations that the suite has to refuse ----------------------------------------------------------


class Silent(MemoryFeatureLog):
    """Drops what it has no room for."""

    def submit(self, event: FeatureEvent, /) -> None:
        try:
            super().submit(event)
        except BackpressureError:
            return


class Double(MemoryFeatureLog):
    """Takes what it says it has no room for."""

    def submit(self, event: FeatureEvent, /) -> None:
        try:
            super().submit(event)
        except BackpressureError:
            self.events.append(event)
            raise


class Blocking(MemoryFeatureLog):
    """Waits for room."""

    def submit(self, event: FeatureEvent, /) -> None:
        try:
            super().submit(event)
        except BackpressureError:
            time.sleep(0.6)
            raise


class Late(MemoryFeatureLog):
    """Delivers the last event only when closed."""

    def flush(self, timeout_s: float) -> None:
        del self.events[-1:]


class Uncounted(MemoryFeatureLog):
    """Gives up what it holds without a word."""

    def close(self) -> None:
        super().close()
        self.events.clear()


class ClosedOnce(MemoryFeatureLog):
    def close(self) -> None:
        assert not self._closed, "closed already"
        super().close()


class NeverClosed(MemoryFeatureLog):
    def close(self) -> None:
        pass


BROKEN: list[tuple[type[MemoryFeatureLog], Check]] = [
    (Silent, a_full_log_says_so_at_once_and_takes_nothing),
    (Double, a_full_log_says_so_at_once_and_takes_nothing),
    (Blocking, a_full_log_says_so_at_once_and_takes_nothing),
    (Late, what_was_submitted_has_arrived_after_a_flush),
    (Uncounted, what_closing_gave_up_is_counted),
    (ClosedOnce, closing_twice_is_closing_once),
    (NeverClosed, nothing_is_taken_after_closing),
]


@pytest.mark.parametrize(("kind", "check"), BROKEN)
def test_the_suite_refuses_a_broken_log(kind: type[MemoryFeatureLog], check: Check) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(Memory(kind))

"""A feature log that is full or broken costs training data, is counted and said, and never costs an answer."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.schemas import BackpressureError, ClosedError, FeatureEvent, RilletError
from rillet.serving.errors import ServingError
from rillet.serving.feature_log import FeatureRecorder, MemoryFeatureLog


def _event() -> FeatureEvent:
    return FeatureEvent("r", 1, 0, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_refused_events_are_counted_and_reported_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    registry = CollectorRegistry()
    recorder = FeatureRecorder(MemoryFeatureLog(2), registry, clock=lambda: now[0])
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            recorder.submit(_event())
        for _ in range(3):
            with pytest.raises(BackpressureError):
                recorder.submit(_event())
        assert len(caplog.records) == 1
        now[0] = 10.0
        with pytest.raises(BackpressureError):
            recorder.submit(_event())
    assert "full at 2 events (2 more like this before)" in caplog.messages[-1]
    name = "rillet_serving_feature_events_total"
    assert registry.get_sample_value(name, {"result": "appended"}) == 2
    assert registry.get_sample_value(name, {"result": "refused"}) == 4
    with pytest.raises(ServingError, match="refused 4 events"):
        recorder.flush(1.0)


class _Broken(MemoryFeatureLog):
    failed = 3  # type: ignore[assignment]

    def submit(self, event: FeatureEvent, /) -> None:
        raise OSError("no disk")

    def flush(self, timeout_s: float) -> None:
        raise RilletError("3 events unacknowledged")


def test_whatever_a_log_raises_is_a_refusal_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    recorder = FeatureRecorder(_Broken(1), registry)
    with caplog.at_level(logging.ERROR), pytest.raises(BackpressureError, match="OSError: no disk"):
        recorder.submit(_event())
    assert "no disk" in caplog.messages[0]
    with pytest.raises(RilletError, match="3 events unacknowledged"):
        recorder.flush(1.0)
    assert registry.get_sample_value("rillet_serving_feature_events_lost_total") == 3


def test_the_recorder_closes_its_log() -> None:
    target = MemoryFeatureLog(1)
    FeatureRecorder(target, CollectorRegistry()).close()
    with pytest.raises(ClosedError):
        target.submit(_event())


class _Unacknowledged(MemoryFeatureLog):
    """Gives up at its close whatever it took."""

    failed = 0  # type: ignore[assignment]

    def close(self) -> None:
        super().close()
        self.failed, self.events = self.failed + len(self.events), []


def test_events_given_up_at_the_close_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    recorder = FeatureRecorder(_Unacknowledged(9), CollectorRegistry())
    recorder.submit(_event())
    recorder.submit(_event())
    recorder.close()
    recorder.close()
    assert [message.split(" ")[0] for message in caplog.messages] == ["2"]

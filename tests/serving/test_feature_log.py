"""A feature log that is full or broken costs training data, is counted and said, and never costs an answer."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.schemas import FeatureEvent, RilletError
from rillet.serving.feature_log import FeatureRecorder, MemoryFeatureLog


def _event() -> FeatureEvent:
    return FeatureEvent("r", 1, 0, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))


def test_refused_events_are_counted_and_reported_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    registry = CollectorRegistry()
    recorder = FeatureRecorder(MemoryFeatureLog(2), registry, clock=lambda: now[0])
    with caplog.at_level(logging.ERROR):
        assert [recorder.record(_event()) for _ in range(5)] == [True, True, False, False, False]
        assert len(caplog.records) == 1
        now[0] = 10.0
        assert not recorder.record(_event())
    assert "full at 2 events (2 more like this before)" in caplog.messages[-1]
    name = "rillet_serving_feature_events_total"
    assert registry.get_sample_value(name, {"result": "appended"}) == 2
    assert registry.get_sample_value(name, {"result": "refused"}) == 4


class _Broken(MemoryFeatureLog):
    def submit(self, event: FeatureEvent) -> None:
        raise OSError("no disk")

    def flush(self, timeout_s: float) -> None:
        raise RilletError("3 events unacknowledged")


def test_a_log_that_raises_is_a_refusal_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    target = _Broken(1)
    target.failed = 3
    recorder = FeatureRecorder(target, registry)
    with caplog.at_level(logging.ERROR):
        assert not recorder.record(_event())
        assert not recorder.flush(1.0)
    assert "no disk" in caplog.messages[0]
    assert "3 events unacknowledged" in caplog.messages[1]
    assert registry.get_sample_value("rillet_serving_feature_events_lost_total") == 3

"""Pacing and settings of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.demo.joiner import next_rate
from rillet.demo.plan import Plan
from rillet.demo.settings import make_settings
from rillet.jobs.config import load_config
from rillet.recordings import RecordingInfo
from rillet.recordings.movielens import ml1m_spec


def test_the_pace_falls_while_the_joiner_is_behind_and_recovers_to_the_target() -> None:
    assert next_rate(200, 200, lag_records=10_000) == pytest.approx(134)
    rate = 200.0
    for _ in range(50):
        rate = next_rate(rate, 200, lag_records=10**6)
    assert rate == 20  # never to a standstill
    for _ in range(50):
        rate = next_rate(rate, 200, lag_records=0)
    assert rate == 200


def info(span_s: int, requests: int = 1000) -> RecordingInfo:
    return RecordingInfo("d", ml1m_spec(), requests, 10 * requests, requests, 0, span_s * 1000)


def test_settings_are_a_configuration_that_the_services_can_read(tmp_path: Path) -> None:
    settings = make_settings(info(span_s=1_000_000), Plan(0, 1000, 1_000_000_000), tmp_path)
    config = load_config(settings.config_path, environment={})
    assert config.load_spec() == ml1m_spec()
    assert config.data_dir.is_relative_to(tmp_path)
    ports = {config.serving.port, config.health.join_port, config.health.train_port}
    ports.add(int(config.kafka.bootstrap_servers.rpartition(":")[2]))
    assert len(ports) == 4


def test_lateness_covers_the_event_time_between_requests_in_flight(tmp_path: Path) -> None:
    slow = make_settings(info(span_s=5), Plan(0, 1000, 5_000), tmp_path)
    fast = make_settings(info(span_s=1_000_000), Plan(0, 1000, 1_000_000_000), tmp_path)
    assert slow.config.flink.lateness_ms == 30_000
    # 1000 s of event time a request; 12 of them are in flight.
    assert fast.config.flink.lateness_ms >= 12 * 1000 * 1000
    for settings in (slow, fast):
        assert settings.drive.spread_ms < settings.config.flink.lateness_ms

"""Scraping, pacing, settings and folders of the demo."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rillet.demo.errors import DemoError
from rillet.demo.joiner import next_rate
from rillet.demo.prepare import fresh_folder
from rillet.demo.settings import make_settings
from rillet.jobs.config import load_config
from rillet.jobs.scrape import parse_metrics
from rillet.recordings import RecordingInfo
from rillet.recordings.movielens import ml1m_spec


def test_metrics_are_read_with_labels_added_up_and_buckets_in_order() -> None:
    registry = CollectorRegistry()
    Gauge("rows", "Rows.", registry=registry).set(7)
    requests = Counter("requests", "Requests.", ["code"], registry=registry)
    requests.labels("200").inc(3)
    requests.labels("429").inc()
    seconds = Histogram("seconds", "Seconds.", buckets=(1, 10), registry=registry)
    for value in (0.5, 5, 50):
        seconds.observe(value)
    reading = parse_metrics(generate_latest(registry).decode())
    assert reading.get("rows") == 7
    assert reading.get("requests_total") == 4
    assert reading.get("absent", -1) == -1
    assert reading.histograms["seconds"] == ([1.0, 10.0, math.inf], [1.0, 2.0, 3.0])


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
    settings = make_settings(info(span_s=1_000_000), 1000, tmp_path)
    config = load_config(settings.config_path, environment={})
    assert config.load_spec() == ml1m_spec()
    assert config.data_dir.is_relative_to(tmp_path)
    ports = {config.serving.port, config.health.join_port, config.health.train_port}
    ports.add(int(config.kafka.bootstrap_servers.rpartition(":")[2]))
    assert len(ports) == 4


def test_lateness_covers_the_event_time_between_requests_in_flight(tmp_path: Path) -> None:
    slow = make_settings(info(span_s=5), 1000, tmp_path)
    fast = make_settings(info(span_s=1_000_000), 1000, tmp_path)
    assert slow.config.flink.lateness_ms == 30_000
    # 1000 s of event time a request; 12 of them are in flight.
    assert fast.config.flink.lateness_ms >= 12 * 1000 * 1000
    for settings in (slow, fast):
        assert settings.drive.spread_ms < settings.config.flink.lateness_ms


def test_a_folder_of_an_earlier_demo_is_emptied_and_any_other_is_left_alone(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "run")
    (folder / "old").touch()
    assert not (fresh_folder(folder) / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(DemoError, match="no demo has written"):
        fresh_folder(mine)
    assert (mine / "thesis.tex").exists()

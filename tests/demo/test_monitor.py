"""Readings put what the services measured beside what the driver sent."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from rillet.demo import monitor
from rillet.demo.driver import DriveStats
from rillet.demo.monitor import FRESHNESS, LoopMonitor, Reading
from rillet.inspection.scrape import Scrape
from rillet.jobs.config import RilletConfig, parse_config

CONFIG: RilletConfig = parse_config(
    {"spec": "spec.toml", "serving": {"port": 1234}, "health": {"train_port": 4321, "join_port": 4322}}
)


class Services:
    """What is scraped, by port; a port that is not there does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Scrape] = {}
        monkeypatch.setattr(monitor, "scrape", self._scrape)

    def _scrape(self, url: str) -> Scrape | None:
        return self.answers.get(url.split(":")[2].split("/")[0])


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    return Services(monkeypatch)


def stats() -> DriveStats:
    found = DriveStats(100, requests=7, actions=9, started_s=time.monotonic() - 5)
    found.auc.add(np.array([0.0, 1.0], np.float32), np.array([False, True]))
    return found


def test_a_reading_has_the_numbers_of_server_trainer_and_driver(services: Services) -> None:
    services.answers["1234"] = Scrape(
        values={"rillet_replica_rows": 30, "rillet_replica_lag_records": 2},
        histograms={FRESHNESS: ([1.0, 2.0, math.inf], [0.0, 10.0, 10.0])},
    )
    services.answers["4321"] = Scrape(values={"rillet_train_rows_total": 500})
    reading = LoopMonitor(CONFIG, stats(), lambda _: None).read()
    assert (reading.requests, reading.actions, reading.trained_rows) == (7, 9, 500)
    assert (reading.replica_rows, reading.replica_lag) == (30, 2)
    assert (reading.auc, reading.freshness_s) == (1.0, 1.5)
    assert reading.wall_s == pytest.approx(5, abs=1)


def test_a_service_that_does_not_answer_keeps_its_last_numbers(services: Services) -> None:
    services.answers["4321"] = Scrape(values={"rillet_train_rows_total": 500})
    readings = LoopMonitor(CONFIG, stats(), lambda _: None)
    readings.read()
    services.answers.clear()
    assert readings.read().trained_rows == 500


def test_before_the_first_request_there_is_nothing_to_say(services: Services) -> None:
    reading = LoopMonitor(CONFIG, DriveStats(100), lambda _: None).read()
    assert (reading.wall_s, reading.requests, reading.replica_rows) == (0.0, 0, 0)
    assert math.isnan(reading.auc)
    assert math.isnan(reading.freshness_s)


def test_readings_are_taken_until_it_is_closed_and_once_more(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_EVERY_S", 0.001)
    shown: list[Reading] = []
    several = threading.Event()

    def show(reading: Reading) -> None:
        shown.append(reading)
        if len(shown) == 3:
            several.set()

    readings = LoopMonitor(CONFIG, stats(), show)
    readings.start()
    assert several.wait(5)
    readings.close()
    count = len(shown)
    assert readings.readings == shown
    time.sleep(0.01)
    assert len(shown) == count

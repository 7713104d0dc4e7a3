"""Readings of the running loop, one per second: what the display shows and the report draws."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rillet.demo.driver import DriveStats
from rillet.demo.metrics import histogram_quantile
from rillet.inspection.scrape import Scrape, scrape
from rillet.jobs.config import RilletConfig

FRESHNESS = "rillet_freshness_seconds"
_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The loop at one moment.

    :param wall_s: seconds since the first request.
    :param auc: of the served scores, over the newest requests whose label window has closed.
    :param freshness_s: median since the start, in seconds, of the time from an action's ingestion to its being served.
    """

    wall_s: float
    requests: int
    actions: int
    trained_rows: int
    replica_rows: int
    replica_lag: int
    auc: float
    freshness_s: float


class LoopMonitor:
    """Takes a reading every second, on a thread of its own, until closed.

    ``readings`` holds them all; ``served`` and ``trained`` are the newest metrics of the server and the trainer.
    """

    def __init__(self, config: RilletConfig, stats: DriveStats, on_reading: Callable[[Reading], None]) -> None:
        self.readings: list[Reading] = []
        self.served = Scrape()
        self.trained = Scrape()
        self._config, self._stats, self._on_reading = config, stats, on_reading
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Takes a last reading and ends."""
        self._closed.set()
        self._thread.join()
        self._on_reading(self.read())

    def read(self) -> Reading:
        """Takes a reading now; of a service that does not answer it holds the values of the reading before."""
        health, serving = self._config.health, self._config.serving
        self.served = scrape(f"http://{serving.host}:{serving.port}/metrics") or self.served
        self.trained = scrape(f"http://{health.host}:{health.train_port}/metrics") or self.trained
        stats = self._stats
        bounds, cumulative = self.served.histograms.get(FRESHNESS, ([], []))
        reading = Reading(
            wall_s=time.monotonic() - stats.started_s if stats.started_s else 0.0,
            requests=stats.requests,
            actions=stats.actions,
            trained_rows=int(self.trained.get("rillet_train_rows_total")),
            replica_rows=int(self.served.get("rillet_replica_rows")),
            replica_lag=int(self.served.get("rillet_replica_lag_records")),
            auc=stats.auc.value(),
            freshness_s=histogram_quantile(bounds, cumulative, 0.5),
        )
        self.readings.append(reading)
        return reading

    def _run(self) -> None:
        while not self._closed.wait(_EVERY_S):
            self._on_reading(self.read())

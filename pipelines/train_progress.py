"""When the trainer measures itself, and what it tells of that: a progress line, and all metrics to files.

While nothing happens it says so once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from rillet.connectors.metric_files import MetricFiles
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import NO_TIME_MS
from rillet.trainer import BlockReader, OnlineTrainer, ServedQuality

log = logging.getLogger(__name__)

#: between two lines, and reports to files, while nothing happens
_IDLE_INTERVAL_MS = 60_000
#: windows so short that minutes do not tell them apart
_SECONDS_BELOW_MS = 600_000
#: share of the newest rows that may be refused while a trainer counts as ready
MOST_REFUSED = 0.5


class TrainProgress:
    """Progress of one trainer, measured at an interval."""

    def __init__(
        self,
        trainer: OnlineTrainer,
        reader: BlockReader,
        *,
        metrics: TrainMetrics,
        files: MetricFiles,
        stage: Callable[[], str],
        now_ms: int,
    ) -> None:
        """
        :param files: what all metrics are written to; the caller starts and closes it.
        :param stage: what the line begins with.
        :param now_ms: the first measurement is due an interval after this.
        """
        self._trainer = trainer
        self._reader = reader
        self._metrics = metrics
        self._files = files
        self._stage = stage
        self._interval_ms = trainer.config.progress_interval_s * 1000
        self._tasks = trainer.spec.tasks
        self._measured_ms = self._told_ms = self._active_ms = now_ms
        self._rows = trainer.counters.rows
        self._state = self._now()

    def report_if_due(self, now_ms: int) -> bool:
        """Measures when the interval is over, and tells of it if something happened; whether the interval was over.

        :raises ClosedError: the files are not open.
        """
        if now_ms - self._measured_ms < self._interval_ms:
            return False
        if self._now() == self._state:
            self._report_idle(now_ms)
        else:
            self.report(now_ms)
        return True

    def report(self, now_ms: int) -> None:
        """Measures, and tells of it whether or not something happened.

        :raises ClosedError: the files are not open.
        """
        trainer = self._trainer
        rate, lag = self._measure(now_ms)
        self._state, self._active_ms = self._now(), now_ms
        loss = self._metrics.evaluate(trainer)
        refused = sum(trainer.counters.refused_rows.values())
        quality = [
            f"{task.name} {describe(trainer.quality, index, trainer.newest_event_ms, task.window_ms)}"
            for index, task in enumerate(self._tasks)
        ]
        # Loss is told for want of something better.
        known = all(trainer.quality.known(task) for task in range(len(self._tasks)))
        parts = [
            f"{self._stage()}{trainer.counters.rows:,} rows, {rate:,.0f}/s, lag {lag:,}",
            *([f"refused {refused:,}"] if refused else []),
            "as served: " + ", ".join(quality),
            *([f"loss {loss:.3f}"] if loss is not None and not known else []),
        ]
        self._tell(now_ms, "; ".join(parts))
        if trainer.refused_share > MOST_REFUSED:
            log.error(
                "%.0f %% of the newest rows were not learned from; their dead letters say why",
                100 * trainer.refused_share,
            )

    def finish(self, now_ms: int) -> None:
        """Measures, and tells what has happened since it was last told, if anything.

        :raises ClosedError: the files are not open.
        """
        if self._now() != self._state:
            self.report(now_ms)

    def _report_idle(self, now_ms: int) -> None:
        _, lag = self._measure(now_ms)
        if now_ms - self._told_ms >= max(self._interval_ms, _IDLE_INTERVAL_MS):
            minutes = (now_ms - self._active_ms) / 60_000
            self._tell(
                now_ms, f"{self._stage()}{self._trainer.counters.rows:,} rows, none for {minutes:.0f} min, lag {lag:,}"
            )

    def _measure(self, now_ms: int) -> tuple[float, int]:
        """Rows per second since the last measurement, and the lag."""
        rows, seconds = self._trainer.counters.rows, max(now_ms - self._measured_ms, 1) / 1000
        rate, lag = (rows - self._rows) / seconds, self._reader.lag(self._trainer.positions)
        self._measured_ms, self._rows = now_ms, rows
        self._metrics.measured(rate, lag)
        return rate, lag

    def _tell(self, now_ms: int, line: str) -> None:
        trouble, newest_ms = self._reader.trouble, self._trainer.newest_event_ms
        log.info("%s%s", line, f"; source: {trouble}" if trouble else "")
        self._files.write(now_ms, newest_ms if newest_ms > NO_TIME_MS else None, self._trainer.counters.rows)
        self._told_ms = now_ms

    def _now(self) -> tuple[object, ...]:
        """What changes when something happens."""
        counters = self._trainer.counters
        return counters.rows, sum(counters.refused_rows.values()), self._reader.trouble, self._stage()


def describe(quality: ServedQuality, task: int, reference_ms: int, window_ms: int) -> str:
    """What is known of the quality of a task, in a few words; times are event times, UTC.

    :param reference_ms: times of its day are told without the date.
    :param window_ms: of the task's labels; below ten minutes times have seconds.
    """
    known = quality.known(task)
    if known is not None:
        metrics = known.metrics
        if not known.enough:
            return (
                f"too few rows to tell: {metrics.positives:,} positive of {metrics.rows:,}"
                f" (to {_clock(known.end_ms, reference_ms, window_ms)})"
            )
        return (
            f"auc {metrics.auc:.3f} ne {metrics.normalised_entropy:.3f} cal {metrics.calibration:.2f}"
            f" (to {_clock(known.end_ms, reference_ms, window_ms)})"
        )
    first_known_ms = quality.first_known_ms(task)
    if first_known_ms is not None:
        return f"warming up: windows close at {_clock(first_known_ms, reference_ms, window_ms)}"
    return "unknown, rows carry no served logits" if quality.unscored_rows(task) else "unknown, no rows yet"


def _clock(time_ms: int, reference_ms: int, window_ms: int) -> str:
    time, reference = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (time_ms, reference_ms))
    date = "" if time.date() == reference.date() else "%Y-%m-%dT"
    return time.strftime(f"{date}{'%H:%M:%S' if window_ms < _SECONDS_BELOW_MS else '%H:%M'}Z")

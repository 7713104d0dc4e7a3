"""Progress of the trainer: what the line says, that it fits, and that an idle trainer does not repeat itself."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.connectors.metric_files import MetricFiles, MetricReport
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.pipelines.train_progress import TrainProgress, describe
from rillet.schemas import SpecRegistry
from rillet.trainer import BlockReader, ListSource, OnlineTrainer
from tests.pipelines.train_parts import NOW, TRAINER, Clock, Parts, encoded_blocks, trainer_after
from tests.trainer.blocks import RAGGED, make_block


class Reports:
    """A sink in memory."""

    def __init__(self) -> None:
        self.taken: list[MetricReport] = []

    def start(self) -> None:
        pass

    def write(self, report: MetricReport) -> None:
        self.taken.append(report)

    def close(self) -> None:
        pass


class Watched:
    """A trainer's progress, its source, and what was told so far."""

    def __init__(self, trainer: OnlineTrainer, caplog: pytest.LogCaptureFixture, records: int = 0) -> None:
        caplog.set_level("INFO", "rillet.pipelines.train_progress")
        self.trainer = trainer
        self.source = ListSource.of_values(encoded_blocks(records))
        self.reports = Reports()
        metrics = TrainMetrics([task.name for task in RAGGED.tasks])
        self.registry: CollectorRegistry = metrics.registry
        self.progress = TrainProgress(
            trainer,
            BlockReader(self.source, SpecRegistry(RAGGED), on_bad=lambda bad: None, max_rows=10),
            metrics=metrics,
            files=MetricFiles(metrics.registry, [self.reports], metrics.metric_file_failures),
            stage=lambda: "",
            now_ms=NOW,
        )
        self._caplog = caplog

    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]

    def train(self, rows: int) -> None:
        """Rows of requests at 00:20."""
        offset = self.trainer.positions.get(0, (0, 0))[0]
        block = make_block(np.random.default_rng(offset), rows)
        self.trainer.offer(0, offset, replace(block, feature_time_ms=np.full(rows, 1_200_000)), 0)
        self.trainer.train(0, more=False, flush=True)


def test_the_line_says_rows_speed_lag_refused_rows_quality_and_loss(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog, records=7)
    watched.trainer.counters.refused_rows["dense"] = 1234
    watched.train(50)
    watched.train(50)
    assert watched.progress.report_if_due(NOW + 10_000)
    (line,) = watched.lines()
    loss = watched.registry.get_sample_value("rillet_train_loss")
    assert line == (
        "100 rows, 10/s, lag 5; refused 1,234; as served: watch warming up: windows close at 00:22:01Z,"
        f" like warming up: windows close at 00:22:05Z; loss {loss:.3f}"
    )
    assert len(line) <= 160
    assert watched.registry.get_sample_value("rillet_train_lag_records") == 5
    assert watched.registry.get_sample_value("rillet_train_rows_per_second") == 10


def test_the_line_of_two_tasks_fits_into_160_columns_at_large_numbers(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(3, closed=True), caplog)
    watched.trainer.counters.rows += 123_456_789
    watched.trainer.counters.refused_rows["dense"] = 1234
    watched.progress.report(NOW + 1_300_000)
    (line,) = watched.lines()
    assert line.startswith("123,461,485 rows, 94,967/s, ")
    assert line.count("auc") == 2
    assert len(line) <= 160


def test_quality_is_told_with_the_time_up_to_which_it_is_known() -> None:
    quality = trainer_after(3, closed=True).quality
    known = quality.known(0)
    assert known is not None
    auc, cal = f"{known.metrics.auc:.3f}", f"{known.metrics.calibration:.2f}"
    text = describe(quality, 0, known.end_ms, 600_000)
    assert text == f"auc {auc} ne {known.metrics.normalised_entropy:.3f} cal {cal} (to 00:34Z)"
    assert describe(quality, 0, known.end_ms, 30_000).endswith("(to 00:34:00Z)")
    assert describe(quality, 0, known.end_ms + 86_400_000, 600_000).endswith("(to 1970-01-01T00:34Z)")


def test_a_handful_of_rows_is_told_as_too_few() -> None:
    quality = trainer_after(1, rows=40, closed=True).quality
    known = quality.known(0)
    assert known is not None
    counts = f"{known.metrics.positives} positive of {known.metrics.rows}"
    assert describe(quality, 0, known.end_ms, 600_000).startswith(f"too few rows to tell: {counts} (to ")


def test_why_quality_is_unknown_is_told() -> None:
    assert describe(trainer_after(0).quality, 0, 0, 600_000) == "unknown, no rows yet"
    assert describe(trainer_after(3, served=False).quality, 0, 0, 600_000) == "unknown, rows carry no served logits"


def test_nothing_is_told_before_the_interval_is_over(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog)
    watched.train(100)
    assert not watched.progress.report_if_due(NOW + 9_999)
    assert watched.lines() == []


def test_an_idle_trainer_speaks_once_a_minute_and_writes_reports_no_more_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(trainer_after(0), caplog, records=1)
    watched.train(100)
    for second in range(10, 200, 10):
        assert watched.progress.report_if_due(NOW + second * 1000)
    first, *idle = watched.lines()
    assert first.startswith("100 rows, 10/s, ")
    assert idle == [
        "100 rows, none for 1 min, lag 0",
        "100 rows, none for 2 min, lag 0",
        "100 rows, none for 3 min, lag 0",
    ]
    assert [(report.time_ms - NOW) // 1000 for report in watched.reports.taken] == [10, 70, 130, 190]
    assert watched.registry.get_sample_value("rillet_train_rows_per_second") == 0


def test_after_an_idle_time_the_speed_is_that_of_the_last_interval(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog)
    for second in range(10, 50, 10):
        watched.progress.report_if_due(NOW + second * 1000)
    watched.train(200)
    watched.progress.report_if_due(NOW + 50_000)
    (line,) = watched.lines()
    assert line.startswith("200 rows, 20/s, ")


def test_trouble_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog)
    for second, trouble in ((10, "the broker is away"), (20, "the broker is away"), (30, "")):
        watched.source.trouble = trouble
        watched.progress.report_if_due(NOW + second * 1000)
    began, ended = watched.lines()
    assert began.endswith("; source: the broker is away")
    assert "source" not in ended


def test_reports_hold_rows_and_event_time_and_all_metrics(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog)
    watched.progress.report(NOW + 1)
    watched.train(100)
    watched.progress.report(NOW + 1_000)
    before, after = watched.reports.taken
    assert (before.event_time_ms, before.rows) == (None, 0)
    assert (after.event_time_ms, after.rows) == (watched.trainer.newest_event_ms, 100)
    names = {sample.key for sample in after.samples}
    assert {"rillet_train_loss", "rillet_train_lag_records", 'rillet_train_quality_unscored_rows{task="like"}'} <= names


def test_the_end_tells_what_was_not_told_yet_and_repeats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(trainer_after(0), caplog)
    watched.train(100)
    watched.progress.finish(NOW + 1_000)
    watched.progress.finish(NOW + 2_000)
    assert len(watched.lines()) == len(watched.reports.taken) == 1


def test_a_loop_measures_at_the_interval_and_once_more_at_its_end(tmp_path: Path) -> None:
    reports = Reports()
    config = replace(TRAINER, queue_rows=40, progress_interval_s=3)
    source = ListSource.of_values(encoded_blocks(20))
    parts = Parts(tmp_path, source, Clock(1_000), config=config, sinks=[reports])
    parts.loop.run(threading.Event())
    rows = [report.rows for report in reports.taken]
    assert len(rows) > 2
    assert rows == sorted(rows)
    assert rows[-1] == 20 * 40

"""Metrics as files: JSON lines that a crash cannot spoil, event files that TensorBoard reads, refusals with the key."""

from __future__ import annotations

import builtins
import json
import math
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from tensorboardX.proto.event_pb2 import SessionLog

from rillet.connectors.errors import MetricFilesError
from rillet.connectors.metric_files import (
    JsonLinesFile,
    MetricFiles,
    MetricReport,
    MetricSample,
    TensorBoardFolder,
    read_samples,
    tag_of,
)
from rillet.schemas import ClosedError
from tests.connectors.event_files import events, scalars

NOW_MS = 1_700_000_000_000


def _report(rows: int, *values: MetricSample) -> MetricReport:
    return MetricReport(NOW_MS + rows, 5_000, rows, values or (MetricSample("rillet_train_loss", rows / 8),))


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the registry -------------------------------------------------------------------------------------------


def test_counters_gauges_and_labels_are_read_by_their_names_without_start_times() -> None:
    registry = CollectorRegistry()
    Counter("rows", "", registry=registry).inc(3)
    Gauge("auc", "", ["task"], registry=registry).labels("click").set(0.75)
    assert {sample.key: sample.value for sample in read_samples(registry)} == {
        "rows_total": 3,
        'auc{task="click"}': 0.75,
    }


def test_histograms_are_read_as_sum_count_and_quantiles() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", ["of"], buckets=(1, 2, 4), registry=registry)
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.labels("save").observe(value)
    read = {sample.key: sample.value for sample in read_samples(registry)}
    assert read == {
        'seconds_sum{of="save"}': 6.5,
        'seconds_count{of="save"}': 4,
        'seconds{of="save",quantile="0.5"}': 1.5,
        'seconds{of="save",quantile="0.99"}': pytest.approx(3.92),
    }


def test_a_quantile_above_all_bounds_is_the_last_bound_and_one_of_nothing_is_unknown() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", buckets=(1, 2), registry=registry)

    def median() -> float:
        return {sample.key: sample.value for sample in read_samples(registry)}['seconds{quantile="0.5"}']

    assert math.isnan(median())
    histogram.observe(100)
    assert median() == 2


@pytest.mark.parametrize(
    ("sample", "tag"),
    [
        (MetricSample("rillet_train_quality_auc", 0, {"task": "click"}), "quality/auc/click"),
        (MetricSample("rillet_train_loss", 0), "loss/loss"),
        (MetricSample("rillet_train_rows_total", 0), "throughput/rows_total"),
        (MetricSample("rillet_train_lag_records", 0), "throughput/lag_records"),
        (MetricSample("rillet_train_refused_rows_total", 0, {"reason": "dense"}), "bad_rows/refused_rows_total/dense"),
        (MetricSample("rillet_train_table_rows", 0), "table/rows"),
        (MetricSample("rillet_train_checkpoint_seconds", 0, {"quantile": "0.5"}), "checkpoints/checkpoint_seconds/0.5"),
        (MetricSample("python_info", 1), "other/python_info"),
    ],
)
def test_tags_are_grouped_by_what_a_metric_is_about(sample: MetricSample, tag: str) -> None:
    assert tag_of(sample) == tag


# -- JSON lines ---------------------------------------------------------------------------------------------


def test_each_report_is_a_line_and_a_later_start_appends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    for rows in (8, 16):
        sink = JsonLinesFile(path, "metrics_file")
        sink.start()
        sink.write(_report(rows, MetricSample("auc", 0.5, {"task": "click"}), MetricSample("loss", math.nan)))
        assert len(_lines(path)) == rows // 8  # through to the file, before it is closed
        sink.close()
    assert _lines(path)[1] == {
        "time_ms": NOW_MS + 16,
        "event_time_ms": 5_000,
        "rows": 16,
        "metrics": {'auc{task="click"}': 0.5, "loss": None},
    }


def test_a_line_that_a_crash_cut_off_stays_alone_on_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLinesFile(path, "metrics_file")
    sink.start()
    sink.write(_report(8))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    again = JsonLinesFile(path, "metrics_file")
    again.start()
    again.write(_report(16))
    again.write(_report(24))
    lines = path.read_bytes().splitlines()
    assert lines[1] == whole[:20]
    assert [json.loads(line)["rows"] for line in (lines[0], *lines[2:])] == [8, 16, 24]


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLinesFile(path, "metrics_file")
    sink.start()
    sink.write(_report(8))
    path.rename(tmp_path / "metrics.jsonl.1")
    sink.write(_report(16))
    assert [line["rows"] for line in _lines(path)] == [16]


# -- TensorBoard --------------------------------------------------------------------------------------------


def test_the_event_file_holds_every_finite_value_with_step_and_wall_time(tmp_path: Path) -> None:
    sink = TensorBoardFolder(tmp_path / "runs" / "a", "tensorboard_dir", rows=0)
    sink.start()
    sink.write(
        _report(512, MetricSample("rillet_train_loss", 0.25), MetricSample("rillet_train_quality_auc", math.nan))
    )
    first, begin, event = events(tmp_path / "runs" / "a")  # through to the file, before it is closed
    sink.close()
    assert first.file_version == "brain.Event:2"
    assert begin.session_log.status == SessionLog.START
    assert (event.step, event.wall_time) == (512, (NOW_MS + 512) / 1000)
    assert [(value.tag, value.simple_value) for value in event.summary.value] == [("loss/loss", 0.25)]


def test_steps_after_the_checkpoint_are_void_once_a_later_start_trains_them_again(tmp_path: Path) -> None:
    killed = TensorBoardFolder(tmp_path, "tensorboard_dir", rows=0)
    killed.start()
    for rows in (8, 16, 24):
        killed.write(_report(rows))
    again = TensorBoardFolder(tmp_path, "tensorboard_dir", rows=16)
    again.start()
    again.write(_report(20))
    assert scalars(tmp_path) == {"loss/loss": [(8, 1.0), (16, 2.0), (20, 2.5)]}


def test_after_a_failure_a_new_file_begins_and_nothing_written_before_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = TensorBoardFolder(tmp_path, "tensorboard_dir", rows=0)
    sink.start()
    sink.write(_report(8))
    assert sink._writer is not None

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink._writer, "write_event", full)
    with pytest.raises(OSError, match="No space"):
        sink.write(_report(16))
    sink.write(_report(24))
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path) == {"loss/loss": [(8, 1.0), (24, 3.0)]}


def test_without_the_library_the_start_is_refused_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tensorboardX"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MetricFilesError,
        match=r"^trainer\.tensorboard_dir: .*install the Python package tensorboardX, or leave the setting out",
    ):
        TensorBoardFolder(tmp_path / "runs", "trainer.tensorboard_dir", rows=0).start()
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    assert "tensorboardx" in {name.lower() for name in packages_distributions()["tensorboardX"]}
    installed = TensorBoardFolder(tmp_path / "runs", "trainer.tensorboard_dir", rows=0)
    installed.start()
    installed.close()


# -- both ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lines", "events"])
def test_a_path_that_cannot_be_written_is_refused_with_its_key(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below"
    sink = JsonLinesFile(path, "trainer.key") if kind == "lines" else TensorBoardFolder(path, "trainer.key", rows=0)
    with pytest.raises(MetricFilesError, match=rf"^trainer\.key: {tmp_path}/file.* cannot be written"):
        sink.start()
    sink.close()


@pytest.mark.parametrize("kind", ["lines", "events"])
def test_nothing_is_written_before_the_start_or_after_the_close(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    sink = JsonLinesFile(path, "key") if kind == "lines" else TensorBoardFolder(path, "key", rows=0)
    with pytest.raises(ClosedError):
        sink.write(_report(8))
    sink.start()
    sink.close()
    sink.close()
    with pytest.raises(ClosedError):
        sink.write(_report(8))


class _Full:
    """A sink whose disk is full for a while."""

    def __init__(self) -> None:
        self.full = False
        self.reports: list[MetricReport] = []

    def __str__(self) -> str:
        return "metrics_file out"

    def start(self) -> None:
        pass

    def write(self, report: MetricReport) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.reports.append(report)

    def close(self) -> None:
        pass


def test_a_full_disk_is_counted_told_once_and_keeps_no_other_file_from_being_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, full, fine = CollectorRegistry(), _Full(), _Full()
    failures = Counter("failures", "", registry=registry)
    files = MetricFiles(registry, [full, fine], failures)
    files.start()
    with caplog.at_level("INFO"):
        for rows in range(4):
            full.full = rows in (1, 2)
            files.write(NOW_MS, None, rows)
    files.close()
    assert [report.rows for report in full.reports] == [0, 3]
    assert [report.rows for report in fine.reports] == [0, 1, 2, 3]
    assert fine.reports[3].samples == [MetricSample("failures_total", 2.0)]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "metrics_file out: metrics are not written: [Errno 28]" in caplog.text

"""A service's Prometheus metrics as files: JSON lines, and event files for TensorBoard.

What Prometheus would have scraped is written as it is, for whoever has no Prometheus or wants the figures of a run beside
it. A file that cannot be opened is refused at the start; what cannot be written later costs reports, not the run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric

from rillet.connectors.errors import MetricFilesError
from rillet.schemas import ClosedError, Stage, StageGroup

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

log = logging.getLogger(__name__)

#: of histograms; their buckets are not written
QUANTILES = (0.5, 0.99)

#: which group of TensorBoard's page a metric is shown in, by the first words of its name; the others are in "other"
_GROUPS = {
    "quality": "quality",
    "loss": "loss",
    "rows": "throughput",
    "batches": "throughput",
    "lag": "throughput",
    "newest": "throughput",
    "refused": "bad_rows",
    "bad": "bad_rows",
    "split": "bad_rows",
    "clipped": "bad_rows",
    "table": "table",
    "touched": "table",
    "publications": "publishing",
    "publish": "publishing",
    "published": "publishing",
    "base": "publishing",
    "bases": "publishing",
    "garbage": "publishing",
    "checkpoint": "checkpoints",
    "corrupt": "checkpoints",
}


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One number of a registry."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name and labels in Prometheus' notation.

        >>> MetricSample("auc", 0.7, {"task": "click"}).key
        'auc{task="click"}'
        """
        labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(self.labels.items()))
        return f"{self.name}{{{labels}}}" if labels else self.name


@dataclass(frozen=True, slots=True)
class MetricReport:
    """All metrics at one moment.

    :param time_ms: wall clock.
    :param event_time_ms: event time that the examples have reached; None before the first.
    :param rows: rows trained on, those before a restart among them.
    """

    time_ms: int
    event_time_ms: int | None
    rows: int
    samples: Sequence[MetricSample]


class MetricSink(Stage, Protocol):
    """Where reports go."""

    def write(self, report: MetricReport) -> None:
        """Writes one report through to the operating system.

        :raises OSError: it could not; the next one may be tried.
        :raises ClosedError: not started, or closed.
        """


class MetricFiles:
    """Reads a registry, and writes what it holds to every sink; with no sinks it does nothing."""

    def __init__(self, registry: CollectorRegistry, sinks: Sequence[MetricSink], failures: Counter) -> None:
        """:param failures: counts the reports that a sink could not write."""
        self._registry = registry
        self._sinks = sinks
        self._group = StageGroup(sinks)
        self._failures = failures
        self._failing: set[MetricSink] = set()

    def start(self) -> None:
        """Opens the files.

        :raises MetricFilesError: one cannot be written, or a library is missing.
        """
        self._group.start()

    def write(self, time_ms: int, event_time_ms: int | None, rows: int) -> None:
        """Writes a report of the registry as it is now; failures are counted, and told when they begin and end.

        :raises ClosedError: not started, or closed.
        """
        if not self._sinks:
            return
        report = MetricReport(time_ms, event_time_ms, rows, list(read_samples(self._registry)))
        for sink in self._sinks:
            try:
                sink.write(report)
            except OSError as error:
                self._failures.inc()
                if sink not in self._failing:
                    log.warning("%s: metrics are not written: %s; it is tried again with each report", sink, error)
                self._failing.add(sink)
            else:
                if sink in self._failing:
                    log.info("%s: metrics are written again", sink)
                self._failing.discard(sink)

    def close(self) -> None:
        """Closes the files."""
        self._group.close()


class JsonLinesFile:
    """One JSON object per report, appended: ``{"time_ms", "event_time_ms", "rows", "metrics": {key: value}}``.

    A value that is no finite number is null. The file is opened anew for each report: it may be moved away at any time.
    """

    def __init__(self, path: Path, setting: str) -> None:
        """:param setting: key of the configuration that names the file, for messages."""
        self._path = path
        self._setting = setting
        self._open = False

    def __str__(self) -> str:
        return f"{self._setting} {self._path}"

    def start(self) -> None:
        """Makes the file and its folder, if they are not there.

        :raises MetricFilesError: it cannot be written.
        """
        with _refused(self._setting, self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("ab").close()
        self._open = True

    def write(self, report: MetricReport) -> None:
        """Appends a line, after ending one that was cut off by a crash or a full disk: see :class:`MetricSink`."""
        if not self._open:
            raise ClosedError(f"{self}: was not started, or is closed")
        metrics = {s.key: s.value if math.isfinite(s.value) else None for s in report.samples}
        line = {
            "time_ms": report.time_ms,
            "event_time_ms": report.event_time_ms,
            "rows": report.rows,
            "metrics": metrics,
        }
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                # Whatever was sought, "a" writes at the end.
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Takes no more reports."""
        self._open = False


class TensorBoardFolder:
    """A run of TensorBoard: scalars over the number of rows trained on, in a new event file with each start.

    Rows that are trained on again after a crash are reported again. A start tells TensorBoard to forget what earlier
    files say of steps after the checkpoint's.
    """

    def __init__(self, folder: Path, setting: str, *, rows: int) -> None:
        """
        :param setting: key of the configuration that names the folder, for messages.
        :param rows: trained on at the start, as the checkpoint has them.
        """
        self._folder = folder
        self._setting = setting
        self._rows = rows
        self._open = False
        self._writer: EventsWriter | None = None

    def __str__(self) -> str:
        return f"{self._setting} {self._folder}"

    def start(self) -> None:
        """Makes the folder if it is not there, and the event file.

        :raises MetricFilesError: it cannot be written, or tensorboardX is not installed.
        """
        try:
            import tensorboardX.event_file_writer  # noqa: F401
        except ImportError as error:
            raise MetricFilesError(
                f"{self._setting}: event files are written with tensorboardX, which cannot be imported ({error}):"
                " install the Python package tensorboardX, or leave the setting out"
            ) from error
        with _refused(self._setting, self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._begin(self._rows)
        self._open = True

    def write(self, report: MetricReport) -> None:
        """Adds a point to the curve of every metric that has a value: see :class:`MetricSink`."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if not self._open:
            raise ClosedError(f"{self}: was not started, or is closed")
        points = [
            Summary.Value(tag=tag_of(sample), simple_value=sample.value)
            for sample in report.samples
            if math.isfinite(sample.value)
        ]
        event = Event(wall_time=report.time_ms / 1000, step=report.rows, summary=Summary(value=points))
        try:
            # After a failure a file may end within a record, and nothing after that would be read.
            writer = self._writer or self._begin(report.rows - 1)
            writer.write_event(event)
            writer.flush()
        except OSError:
            self._end()
            raise

    def close(self) -> None:
        """Closes the event file."""
        self._open = False
        self._end()

    def _begin(self, rows: int) -> EventsWriter:
        """A new file, whose first record makes void what other files say of steps after ``rows``."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        # Its name has the second, by which TensorBoard orders files; two in a second must not be one.
        self._writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        begin = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=rows + 1, session_log=begin))
        self._writer.flush()
        return self._writer

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                log.warning("%s: the event file could not be closed: %s", self, error)


@contextmanager
def _refused(setting: str, path: Path) -> Iterator[None]:
    """What the operating system says of a path, as the refusal of a setting."""
    try:
        yield
    except OSError as error:
        raise MetricFilesError(
            f"{setting}: {error.filename or path} cannot be written ({error.strerror}): name another path, or leave the"
            " setting out"
        ) from error


def read_samples(registry: CollectorRegistry) -> Iterator[MetricSample]:
    """Everything that a registry holds; of histograms sum, count and :data:`QUANTILES`, of counters no start times."""
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                yield MetricSample(sample.name, sample.value, sample.labels)
        if family.type == "histogram":
            yield from _quantiles(family)


def tag_of(sample: MetricSample) -> str:
    """Where TensorBoard shows a metric: its group, its name without what all names begin with, its labels' values.

    >>> tag_of(MetricSample("rillet_train_quality_auc", 0.7, {"task": "click"}))
    'quality/auc/click'
    >>> tag_of(MetricSample("rillet_train_rows_per_second", 90_000.0))
    'throughput/rows_per_second'
    """
    name = sample.name.removeprefix("rillet_train_")
    group = _GROUPS.get(name.partition("_")[0], "other")
    return "/".join([group, name.removeprefix(f"{group}_"), *(value for _, value in sorted(sample.labels.items()))])


def _quantiles(family: Metric) -> Iterator[MetricSample]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            labels = tuple((name, value) for name, value in sorted(sample.labels.items()) if name != "le")
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
    for labels, counts in buckets.items():
        for q in QUANTILES:
            yield MetricSample(family.name, _quantile(sorted(counts), q), {**dict(labels), "quantile": f"{q:g}"})


def _quantile(buckets: Sequence[tuple[float, float]], q: float) -> float:
    """As Prometheus' histogram_quantile has it: linear within a bucket, the last finite bound above all of them.

    :param buckets: upper bounds, the last infinite, and how many values are at most that large.
    :returns: NaN without values.
    """
    wanted = q * buckets[-1][1]
    low = below = 0.0
    for bound, count in buckets:
        if count >= wanted and count > below:
            return low + (bound - low) * (wanted - below) / (count - below) if math.isfinite(bound) else low
        low, below = (bound, count) if math.isfinite(bound) else (low, below)
    return math.nan

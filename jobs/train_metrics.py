"""What the trainer tells Prometheus, and its progress line. Reads the trainer's figures; decides nothing."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rillet.sync import Publication
from rillet.trainer import Metrics, OnlineTrainer


class TrainMetrics:
    """One registry per process; counters start at 0 with it."""

    def __init__(self, tasks: list[str]) -> None:
        self.registry = CollectorRegistry()
        self._tasks = tasks
        self._seen = (0, 0, 0)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"rillet_train_{name}", text, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"rillet_train_{name}", text, labels, registry=self.registry)

        self._rows = counter("rows", "Example rows trained on.")
        self._batches = counter("batches", "Steps taken.")
        self._refused = counter(
            "refused_batches", "Batches not learned from, since the loss or a gradient was not finite."
        )
        self.bad_records = counter("bad_records", "Example records sent to the dead letters.")
        self.publications = counter("publications", "Publications acknowledged by the log.")
        self.publish_failures = counter("publish_failures", "Publications that failed; their rows wait for the next.")
        self._published_rows = counter("published_rows", "Embedding rows published.")
        self._published_bytes = counter("published_bytes", "Encoded bytes of published blocks.")
        self._tombstones = counter("published_tombstones", "Removed fids published.")
        self.bases = counter("bases", "Bases written.")
        self.base_failures = counter("base_failures", "Bases that could not be written.")
        self.garbage_failures = counter("garbage_failures", "Times that old bases and blobs could not be deleted.")
        self.checkpoint_failures = counter("checkpoint_failures", "Checkpoints that could not be written.")
        self.corrupt_checkpoints = counter("corrupt_checkpoints", "Checkpoints refused at start.")
        self.checkpoint_seconds = Histogram(
            "rillet_train_checkpoint_seconds", "Time that training waited for a checkpoint.", registry=self.registry
        )
        self._table_rows = gauge("table_rows", "Embedding rows.")
        self._touched_rows = gauge("touched_rows", "Embedding rows changed and not published yet.")
        self._newest_event = gauge("newest_event_timestamp_seconds", "Event time of the newest example trained on.")
        labels = ("task", "source")
        self._auc = gauge("auc", "Windowed progressive AUC; source model or served.", labels)
        self._entropy = gauge("normalised_entropy", "Windowed log loss over the base rate's entropy.", labels)
        self._calibration = gauge("calibration", "Windowed mean predicted over empirical.", labels)

    def published(self, publication: Publication) -> None:
        """Counts an acknowledged publication."""
        self.publications.inc()
        self._published_rows.inc(publication.rows)
        self._published_bytes.inc(publication.bytes)
        self._tombstones.inc(publication.tombstones)

    def start_at(self, trainer: OnlineTrainer) -> None:
        """Leaves out what was counted before the checkpoint: counters are of this process."""
        self._seen = _counts(trainer)

    def update(self, trainer: OnlineTrainer) -> None:
        """Brings counters and table gauges up to date; cheap."""
        now = _counts(trainer)
        for counter, new, old in zip((self._rows, self._batches, self._refused), now, self._seen, strict=True):
            counter.inc(new - old)
        self._seen = now
        self._table_rows.set(len(trainer.table))
        self._touched_rows.set(len(trainer.table.touched))
        self._newest_event.set(trainer.newest_event_ms / 1000)

    def evaluate(self, trainer: OnlineTrainer) -> str:
        """Sets the windowed gauges and returns them as the tail of a progress line."""
        parts = []
        for index, task in enumerate(self._tasks):
            for source, window in (("model", trainer.model_metrics), ("served", trainer.served_metrics)):
                metrics = window.metrics(index)
                self._auc.labels(task, source).set(metrics.auc)
                self._entropy.labels(task, source).set(metrics.normalised_entropy)
                self._calibration.labels(task, source).set(metrics.calibration)
                if not math.isnan(metrics.auc):
                    parts.append(_describe(task, source, metrics))
        return ", ".join(parts)


def _counts(trainer: OnlineTrainer) -> tuple[int, int, int]:
    counters = trainer.counters
    return counters.rows, counters.batches, counters.refused_batches


def _describe(task: str, source: str, metrics: Metrics) -> str:
    return (
        f"{task} {source} auc {metrics.auc:.3f} ne {metrics.normalised_entropy:.3f}"
        f" calibration {metrics.calibration:.2f}"
    )

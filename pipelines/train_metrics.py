"""What the trainer tells Prometheus. Reads the trainer's figures; decides nothing."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rillet.schemas import NO_TIME_MS
from rillet.sync import Publication
from rillet.trainer import KnownQuality, OnlineTrainer, Reason


class TrainMetrics:
    """One registry per process; counters start at 0 with it."""

    def __init__(self, tasks: list[str]) -> None:
        self.registry = CollectorRegistry()
        self._tasks = tasks

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"rillet_train_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"rillet_train_{name}", text, labels, registry=self.registry)

        refused = counter("refused_rows", "Example rows not learned from, and sent to the dead letters.", ("reason",))
        #: of the trainer's counters
        self._counters = {
            "rows": counter("rows", "Example rows trained on."),
            "batches": counter("batches", "Batches taken."),
            "other_task_rows": counter(
                "other_task_rows", "Rows of tasks of an accepted feature spec that ours does not have."
            ),
            "split_batches": counter("split_batches", "Batches that could only be learned from in parts."),
            "clipped_rows": counter("clipped_rows", "Example rows whose embeddings' gradient was scaled down."),
            "clipped_steps": counter("clipped_steps", "Steps whose dense gradient was scaled down."),
            **{f"refused {reason}": refused.labels(reason) for reason in Reason},
        }
        self._seen = dict.fromkeys(self._counters, 0)
        self.bad_records = counter("bad_records", "Whole example records sent to the dead letters.")
        self.other_spec_records = counter("other_spec_records", "Example records of another feature spec, passed over.")
        self.publications = counter("publications", "Publications acknowledged by the log.")
        self._publish_failures = counter("publish_failures", "Publications that failed; their rows wait for the next.")
        self._failures_in_a_row = gauge(
            "publish_failures_in_a_row", "Publications that failed since the last one that was acknowledged."
        )
        self._published_rows = counter("published_rows", "Embedding rows published.")
        self._published_bytes = counter("published_bytes", "Encoded bytes of published blocks.")
        self._tombstones = counter("published_tombstones", "Removed fids published.")
        self.bases = counter("bases", "Bases written.")
        self.base_failures = counter("base_failures", "Bases that could not be written.")
        self.garbage_failures = counter("garbage_failures", "Times that old bases and blobs could not be deleted.")
        self.checkpoint_failures = counter("checkpoint_failures", "Checkpoints that could not be written.")
        self.corrupt_checkpoints = counter("corrupt_checkpoints", "Checkpoints refused at start.")
        self.checkpoint_seconds = Histogram(
            "rillet_train_checkpoint_seconds",
            "Time that training waited for a checkpoint, all its slices together.",
            registry=self.registry,
        )
        self.checkpoint_write_seconds = Histogram(
            "rillet_train_checkpoint_write_seconds",
            "From the moment of a checkpoint until it was written, while training went on.",
            registry=self.registry,
        )
        self._table_rows = gauge("table_rows", "Embedding rows.")
        self._touched_rows = gauge("touched_rows", "Embedding rows changed and not published yet.")
        self._newest_event = gauge(
            "newest_event_timestamp_seconds", "Event time that the newest examples have reached."
        )
        self._newest_event.set(math.nan)
        self._loss = gauge(
            "loss", "Training loss: mean per row since the last progress line, in nats. No measure of quality."
        )
        self._loss.set(math.nan)
        self._rate = gauge("rows_per_second", "Example rows trained on, over the last progress interval.")
        self._lag = gauge("lag_records", "Records of the examples topic, or of a batch stage, not trained on yet.")
        self._lag.set(math.nan)
        self.metric_file_failures = counter("metric_file_failures", "Reports that could not be written to a file.")
        of, labels = "of the logits that were served, over the newest complete stretches of request time.", ("task",)
        self._auc = gauge("quality_auc", f"AUC {of}", labels)
        self._entropy = gauge("quality_normalised_entropy", f"Log loss over the base rate's entropy, {of}", labels)
        self._calibration = gauge("quality_calibration", f"Mean predicted over mean observed, {of}", labels)
        self._quality_rows = gauge("quality_rows", "Rows that the figures of quality are of.", labels)
        self._quality_positives = gauge("quality_positives", "Those of them with label 1.", labels)
        self._quality_first = gauge(
            "quality_first_known_timestamp_seconds",
            "Event time at which the first label windows have closed and quality becomes known; NaN from then on.",
            labels,
        )
        self._quality_start = gauge(
            "quality_start_timestamp_seconds", "Event time of the first request that quality is of.", labels
        )
        self._quality_end = gauge(
            "quality_end_timestamp_seconds",
            "Event time up to which quality is known: later label windows are open.",
            labels,
        )
        self._unscored = gauge(
            "quality_unscored_rows", "Rows that carried no served logit, and were not judged.", labels
        )
        self._left_out = gauge(
            "quality_left_out_rows", "Rows that came too late for their stretch to be judged.", labels
        )

    def published(self, publication: Publication) -> None:
        """Counts an acknowledged publication."""
        self.publications.inc()
        self._failures_in_a_row.set(0)
        self._published_rows.inc(publication.rows)
        self._published_bytes.inc(publication.bytes)
        self._tombstones.inc(publication.tombstones)

    def publish_failed(self) -> None:
        """Counts a publication that failed."""
        self._publish_failures.inc()
        self._failures_in_a_row.inc()

    def start_at(self, trainer: OnlineTrainer) -> None:
        """Leaves out what was counted before the checkpoint: counters are of this process."""
        self._seen = _counts(trainer)

    def update(self, trainer: OnlineTrainer) -> None:
        """Brings counters and table gauges up to date; cheap."""
        now = _counts(trainer)
        for name, counter in self._counters.items():
            counter.inc(now[name] - self._seen[name])
        self._seen = now
        self._table_rows.set(len(trainer.table))
        self._touched_rows.set(len(trainer.table.touched))
        newest_ms = trainer.newest_event_ms
        self._newest_event.set(math.nan if newest_ms == NO_TIME_MS else newest_ms / 1000)

    def measured(self, rows_per_second: float, lag_records: int) -> None:
        """Sets what the loop has measured."""
        self._rate.set(rows_per_second)
        self._lag.set(lag_records)

    def evaluate(self, trainer: OnlineTrainer) -> float | None:
        """Sets the gauges of quality, and that of training loss, which it returns: None without rows since the last call."""
        quality, loss = trainer.quality, trainer.take_training_loss()
        if not math.isnan(loss):
            self._loss.set(loss)
        for index, task in enumerate(self._tasks):
            self._unscored.labels(task).set(quality.unscored_rows(index))
            self._left_out.labels(task).set(quality.left_out_rows(index))
            known, first_ms = quality.known(index), quality.first_known_ms(index)
            if known is not None:
                self._set_quality(task, known)
            if known is None and first_ms is not None:
                self._quality_first.labels(task).set(first_ms / 1000)
            else:
                self._quality_first.labels(task).set(math.nan)
        return None if math.isnan(loss) else loss

    def _set_quality(self, task: str, known: KnownQuality) -> None:
        metrics, enough = known.metrics, known.enough
        self._auc.labels(task).set(metrics.auc if enough else math.nan)
        self._entropy.labels(task).set(metrics.normalised_entropy if enough else math.nan)
        self._calibration.labels(task).set(metrics.calibration if enough else math.nan)
        self._quality_rows.labels(task).set(metrics.rows)
        self._quality_positives.labels(task).set(metrics.positives)
        self._quality_start.labels(task).set(known.start_ms / 1000)
        self._quality_end.labels(task).set(known.end_ms / 1000)


def _counts(trainer: OnlineTrainer) -> dict[str, int]:
    counters = trainer.counters
    return {
        "rows": counters.rows,
        "batches": counters.batches,
        "other_task_rows": counters.other_task_rows,
        "split_batches": counters.split_batches,
        "clipped_rows": counters.clipped_rows,
        "clipped_steps": counters.clipped_steps,
        **{f"refused {reason}": count for reason, count in counters.refused_rows.items()},
    }

"""``rillet train``: the examples topic in; published rows, bases and checkpoints out; until told to stop.

Everything that learning depends on is in ``trainer``; here are the clock, the broker and the disk. What was
published stays recoverable: a checkpoint holds the touched keys with the position, and rows touched after it
are touched again when their examples are read again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import torch

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.errors import DeliveryError
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.jobs.health import start_health_server
from rillet.jobs.train_metrics import TrainMetrics
from rillet.schemas import BackpressureError, FlushTimeoutError, RecordError, dump_spec
from rillet.sync import Base, LogUnavailableError, Manifest, ModelStore, Publisher, StoreUnavailableError, TableShard
from rillet.trainer import (
    BlockReader,
    CheckpointStore,
    CorruptCheckpointError,
    OnlineTrainer,
    RawRecord,
    dense_state,
    export_program,
)

log = logging.getLogger("rillet.train")

#: Longest wait for input; bounds how late a publication or a signal is seen to.
_WAIT_S = 0.05
_FLUSH_S = 30.0


def run_train(config: RilletConfig, *, until_latest: bool = False) -> int:
    """Trains until SIGTERM or SIGINT, or until the present end of the examples topic.

    :param until_latest: stop at the end that the topic has now; what is left of a batch is trained on too.
    :raises BrokerUnavailableError: no broker answers at the start; later outages are waited out.
    :raises CheckpointError: the checkpoint is of another model or spec, or none is intact.
    :raises DeliveryError: the broker refuses dead letters for good; nothing more is saved.
    :raises ModelError: a weight is no longer finite; nothing more is saved.
    :raises FencedError: a newer trainer publishes this model; nothing more is saved.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # Before any thread exists: the setting is inherited, not shared.
    torch.set_flush_denormal(True)
    torch.set_num_threads(config.trainer.threads)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    kafka = config.kafka
    create_topics(kafka.connection, kafka.topic_partitions, replication=kafka.replication)
    job = TrainJob(config, until_latest=until_latest)
    health = start_health_server(
        config.health.train_port, lambda: job.ready, host=config.health.host, registry=job.metrics.registry
    )
    try:
        job.run(stop)
    finally:
        job.close()
        health.close()
    return 0


class TrainJob:
    """One trainer with its source, publisher and checkpoints."""

    def __init__(self, config: RilletConfig, *, until_latest: bool) -> None:
        """Restores the newest checkpoint and connects.

        :raises CheckpointError: see :func:`run_train`.
        :raises TopicError: the checkpoint's position is not in the topic.
        """
        self.config = config
        self.ready = False
        self._spec = config.load_spec()
        self.metrics = TrainMetrics([task.name for task in self._spec.tasks])
        self._checkpoints = CheckpointStore(str(config.checkpoint_dir), keep=config.trainer.keep_checkpoints)
        self._trainer = OnlineTrainer(self._spec, config.model, config.table, config.trainer)
        restored = self._trainer.restore(self._checkpoints, self._on_corrupt)
        self.metrics.start_at(self._trainer)
        if restored is not None:
            log.info("going on from checkpoint %d at %s", restored.version, self._trainer.positions)
        kafka, connection = config.kafka, config.kafka.connection
        self._store = ModelStore(config.store_url, config.model.name)
        self._publisher = Publisher(
            KafkaDeltaLog(connection, kafka.topics.deltas),
            self._store,
            TableShard(config.model.name, self._spec.hash),
            writer=f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}",
            config=config.publisher,
            state=restored.extra["publisher"] if restored is not None else None,
        )
        self._letters = DeadLetterProducer(connection, kafka.topics.dead_letters)
        self._stopping = threading.Event()
        self._source = KafkaExampleSource(
            connection, kafka.topics.examples, self._trainer.positions, until_latest=until_latest
        )
        self._reader = BlockReader(
            self._source, self._spec, on_bad=self._on_bad, max_rows=config.trainer.queue_rows, poll_s=_WAIT_S
        )
        self._background = ThreadPoolExecutor(1, "base-writer")
        self._base: Future[Manifest] | None = None
        self._last_checkpoint_ms = self._last_progress_ms = _now_ms()
        self._last_rows = self._trainer.counters.rows

    @cached_property
    def _program(self) -> bytes:
        """The exported model, made once: whoever loads it sets the current weights from the base.

        Made when a base first needs it, since it takes seconds that a restart can do without.
        """
        return export_program(self._trainer.learner.model, self._spec, self.config.model.row_dim)

    def run(self, stop: threading.Event) -> None:
        """Trains until ``stop`` is set or the source ends; then publishes and checkpoints once more."""
        config, trainer = self.config.trainer, self._trainer
        self._letters.start()
        self._source.start()
        self._reader.start()
        self._publish(_now_ms())
        while not stop.is_set():
            items = self._reader.take(4 * config.batch_size, _WAIT_S)
            now = _now_ms()
            for item in items:
                trainer.offer(item.partition, item.offset, item.block, now)
            trainer.train(now, more=bool(items))
            self.metrics.update(trainer)
            self._do_what_is_due(_now_ms())
            if not items and self._reader.ended:
                trainer.train(_now_ms(), more=False, flush=True)
                break
        self._stopping.set()
        self._reader.close()
        self.metrics.update(trainer)
        self._progress(_now_ms())
        self._publish(_now_ms())
        self._checkpoint()
        self._background.shutdown()
        self._settle_base(_now_ms())
        log.info("stopped at %s", trainer.positions)

    def close(self) -> None:
        """Stops the threads and leaves the broker. Saves nothing."""
        self._stopping.set()
        self._reader.close()
        self._letters.close()
        self._background.shutdown()
        self._source.close()

    def _do_what_is_due(self, now: int) -> None:
        config = self.config.trainer
        self._settle_base(now)
        if self._publisher.sparse_due(now, self._trainer.table):
            self._publish(now)
        if now - self._last_checkpoint_ms >= config.checkpoint_interval_s * 1000:
            self._checkpoint()
        if now - self._last_progress_ms >= config.progress_interval_s * 1000:
            self._progress(now)

    def _publish(self, now: int) -> None:
        """Publishes what was touched; a base too when due. What fails is tried again at the next interval."""
        trainer, publisher = self._trainer, self._publisher
        dense = dense_state(trainer.learner.model)
        try:
            self.metrics.published(
                publisher.publish(
                    trainer.table,
                    now_ms=now,
                    freshness=trainer.take_freshness(),
                    dense=dense if publisher.dense_due(now) else None,
                )
            )
            if self._base is None and publisher.base_due(now):
                base = publisher.snapshot(
                    trainer.table, now_ms=now, dense=dense, program=self._program, spec_toml=dump_spec(self._spec)
                )
                self._base = self._background.submit(self._write_base, base)
        except (LogUnavailableError, StoreUnavailableError) as error:
            self.metrics.publish_failures.inc()
            log.warning("not published, %d rows wait: %s", len(trainer.table.touched), error)
            return
        self.ready = True

    def _write_base(self, base: Base) -> Manifest:
        """Runs in the background; what it returns or raises is for :meth:`_settle_base`."""
        manifest = self._store.write_base(base)
        try:
            self._store.collect_garbage(self.config.publisher.keep_bases, self.config.publisher.keep_dense)
        except StoreUnavailableError as error:
            self.metrics.garbage_failures.inc()
            log.warning("old bases and dense blobs were not deleted, the next base tries again: %s", error)
        return manifest

    def _settle_base(self, now: int) -> None:
        """Takes note of a base that is done.

        :raises Exception: whatever else than the store kept it from being written.
        """
        if self._base is None or not self._base.done():
            return
        done, self._base = self._base, None
        try:
            manifest = done.result()
        except StoreUnavailableError as error:
            self._publisher.base_failed(now)
            self.metrics.base_failures.inc()
            log.warning("a base was not written, the next is due in sparse_interval_s: %s", error)
            return
        self.metrics.bases.inc()
        log.info("base %d written: %d rows", manifest.version, manifest.rows)

    def _checkpoint(self) -> None:
        """Saves; a store or broker away costs a longer replay after a crash, not the run."""
        self._last_checkpoint_ms = _now_ms()
        try:
            with self.metrics.checkpoint_seconds.time():
                # The position passes refused records, so their letters must be safe first.
                self._letters.flush(_FLUSH_S)
                self._trainer.save(self._checkpoints, {"publisher": self._publisher.state()})
        except (OSError, FlushTimeoutError) as error:
            self.metrics.checkpoint_failures.inc()
            log.warning("no checkpoint was written: %s", error)

    def _progress(self, now: int) -> None:
        trainer = self._trainer
        seconds = max(now - self._last_progress_ms, 1) / 1000
        rate = (trainer.counters.rows - self._last_rows) / seconds
        self._last_progress_ms, self._last_rows = now, trainer.counters.rows
        log.info(
            "%d rows (%.0f/s), %d in the table, at %s%s; %s",
            trainer.counters.rows,
            rate,
            len(trainer.table),
            trainer.positions,
            f", broker: {self._source.trouble}" if self._source.trouble else "",
            self.metrics.evaluate(trainer) or "no labels of both kinds yet",
        )

    def _on_bad(self, record: RawRecord, error: RecordError) -> None:
        self.metrics.bad_records.inc()
        log.warning("partition %d offset %d is a dead letter: %s", record.partition, record.offset, error)
        topic = self.config.kafka.topics.examples
        letter = letter_for(error, topic, record.partition, record.offset, key=record.key, value=record.value)
        while True:
            try:
                return self._letters.submit(letter)
            except BackpressureError as full:
                # In the reading thread: nothing is read past a record whose letter has no room.
                if self._stopping.wait(_WAIT_S):
                    raise DeliveryError(f"stopped: {full}; the record is read again after a restart") from None

    def _on_corrupt(self, error: CorruptCheckpointError) -> None:
        self.metrics.corrupt_checkpoints.inc()
        log.warning("%s; going back to the version before", error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

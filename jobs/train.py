"""``rillet train``: files and the examples topic in; published rows, bases and checkpoints out; until told to stop.

Here the trainer's parts are made from the configuration and put together; what they do is in ``trainer`` and
``jobs.train_loop``. What was published stays recoverable: a checkpoint holds the touched keys with the position, and
rows touched after it are touched again when their examples are read again.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from rillet.connectors.batch_then_online import BatchThenOnline
from rillet.connectors.dead_letters import DeadLetterProducer, letter_for_example
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.file_source import FileSource
from rillet.connectors.metric_files import JsonLinesFile, MetricFiles, MetricSink, TensorBoardFolder
from rillet.connectors.service_info import announce_service
from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold, require_writable
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.pipelines.base_writer import BaseWriter
from rillet.pipelines.batch_stage import BatchOptions, BatchStage
from rillet.pipelines.checkpoints import Checkpoints
from rillet.pipelines.publications import Publications
from rillet.pipelines.train_loop import TrainLoop
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import DeadLetter, SpecRegistry, compare
from rillet.sync import ModelStore, Publisher, TableShard
from rillet.trainer import (
    BadRecord,
    CheckpointStore,
    CorruptCheckpointError,
    ExampleSource,
    OnlineTrainer,
    Restored,
    export_program,
)
from rillet.trainer.carry_over import CarryOver

log = logging.getLogger(__name__)


def run_train(config: RilletConfig, *, until_latest: bool = False, batch: BatchOptions | None = None) -> int:
    """Trains until SIGTERM or SIGINT, until the present end of the examples topic, or until the files are used up.

    :param until_latest: stop at the end that the topic has now; what is left of a batch is trained on too.
    :param batch: files to learn from before the topic.
    :raises ServiceError: another trainer of the model runs on this data_dir, or it cannot be written to.
    :raises BrokerUnavailableError: no broker answers at the start; later outages are waited out.
    :raises CheckpointError: the checkpoint is of another model or spec, or none is intact.
    :raises DeliveryError: the broker refuses dead letters for good; nothing more is saved.
    :raises ModelError: a weight is no longer finite; nothing more is saved.
    :raises FencedError: a newer trainer publishes this model; nothing more is saved.
    :raises BatchStageError: ``batch`` is not what the model began with.
    :raises ExampleFilesError: a file is missing or damaged.
    :raises MetricFilesError: metrics cannot be written to the files that the configuration names.
    """
    # Before any thread exists: the setting is inherited, not shared.
    torch.set_flush_denormal(True)
    torch.set_num_threads(config.trainer.threads)
    end_at_once_on_signals()
    # A second one would take the model over by its claim of an epoch, and both would write the same checkpoints.
    with hold(config.data_dir, f"train-{config.model.name}"):
        kafka = config.kafka
        create_topics(kafka.connection, kafka.topic_partitions_of("train"), replication=kafka.replication)
        stop = threading.Event()
        call_on_signals(stop.set)
        loop = wire_trainer(config, until_latest=until_latest, batch=batch)
        health = HealthServer(
            config.health.train_port, lambda: loop.ready, host=config.health.host, registry=loop.metrics.registry
        )
        try:
            health.start()
            loop.run(stop)
        finally:
            health.close()
            loop.close()
    return 0


def wire_trainer(
    config: RilletConfig, *, until_latest: bool = False, batch: BatchOptions | None = None
) -> TrainLoop[DeadLetter]:
    """The trainer of a configuration, on its broker and its store, restored from its newest checkpoint.

    :raises ServiceError: checkpoints or a store of this machine cannot be written to.
    :raises BatchStageError: ``batch`` is not what the model began with.
    :raises ExampleFilesError: there are no such files, or they are of another spec.
    :raises CheckpointError: the checkpoint is of another model or spec, or none is intact.
    :raises TopicError: the checkpoint's position is not in the topic.
    """
    specs = config.load_specs()
    spec = specs.current
    # A store elsewhere may come back; a folder here that cannot be written to stays so until somebody mends it.
    for local in (str(config.checkpoint_dir(spec)), config.store_url):
        if "://" not in local:
            require_writable(Path(local))
    kafka, topics = config.kafka.connection, config.kafka.topics
    metrics = TrainMetrics([task.name for task in spec.tasks])
    announce_service(metrics.registry, model=config.model.name, spec_hash=spec.hash)
    checkpoint_store = CheckpointStore(str(config.checkpoint_dir(spec)), keep=config.trainer.keep_checkpoints)
    trainer = OnlineTrainer(spec, config.model, config.table, config.trainer)

    def on_corrupt(error: CorruptCheckpointError) -> None:
        metrics.corrupt_checkpoints.inc()
        log.warning("%s; going back to the version before", error)

    restored = trainer.restore(checkpoint_store, on_corrupt)
    if restored is not None:
        log.info("going on from checkpoint %d at %s", restored.version, trainer.positions)
    else:
        restored = _carried_over(config, specs, trainer, on_corrupt)
    metrics.start_at(trainer)
    kept = restored.extra.get("batch_stage") if restored is not None else None
    stage = BatchStage.planned(batch, kept, trainer.positions, spec, topic=topics.examples, seed=config.model.seed)
    store = ModelStore(config.store_url, config.model.name)
    deltas = KafkaDeltaLog(kafka, topics.deltas)
    bases = BaseWriter(
        store, keep_bases=config.publisher.keep_bases, keep_dense=config.publisher.keep_dense, metrics=metrics
    )
    publications = Publications(
        trainer,
        Publisher(
            deltas,
            store,
            TableShard(config.model.name, spec.model_hash),
            writer=f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}",
            config=config.publisher,
            state=restored.extra["publisher"] if restored is not None else None,
        ),
        bases,
        program=cache(lambda: export_program(trainer.learner.model, spec, config.model.row_dim)),
        metrics=metrics,
    )

    def to_letter(bad: BadRecord) -> DeadLetter:
        return letter_for_example(bad, topics.examples, stage.url if stage and bad.record.partition < 0 else None)

    def topic() -> KafkaExampleSource:
        positions = trainer.positions if stage is None else stage.online_positions(trainer.positions)
        return KafkaExampleSource(kafka, topics.examples, positions, until_latest=until_latest)

    source: ExampleSource
    staged: FileSource | BatchThenOnline | None = None
    if stage is None or ((batch is None or batch.then_online) and stage.finished(trainer.positions)):
        source = topic()
    elif batch is not None and batch.then_online:
        source = staged = BatchThenOnline(stage.source(spec, trainer.positions), topic)
    else:
        source = staged = stage.source(spec, trainer.positions)
    letters = DeadLetterProducer(kafka, topics.dead_letters)
    sinks: list[MetricSink] = []
    if (file := config.path_in_data_dir(config.trainer.metrics_file)) is not None:
        sinks.append(JsonLinesFile(file, "trainer.metrics_file"))
    if (folder := config.path_in_data_dir(config.trainer.tensorboard_dir)) is not None:
        sinks.append(TensorBoardFolder(folder, "trainer.tensorboard_dir", rows=trainer.counters.rows))
    return TrainLoop(
        trainer,
        specs,
        source=source,
        letters=letters,
        to_letter=to_letter,
        publications=publications,
        checkpoints=Checkpoints(
            trainer,
            checkpoint_store,
            letters=letters,
            extra=lambda: {
                "publisher": publications.state(),
                "batch_stage": stage.to_json() if stage is not None else None,
            },
            metrics=metrics,
        ),
        stages=[deltas, bases],
        metrics=metrics,
        metric_files=MetricFiles(metrics.registry, sinks, metrics.metric_file_failures),
        now_ms=_now_ms,
        batch_stage=stage,
        in_batch=lambda: staged is not None and staged.in_batch,
    )


def _carried_over(
    config: RilletConfig,
    specs: SpecRegistry,
    trainer: OnlineTrainer,
    on_corrupt: Callable[[CorruptCheckpointError], None],
) -> Restored | None:
    """The model goes on from a checkpoint on another spec of ours, the first in their order that has any.

    :raises CheckpointError: that one is of another model, or none is intact.
    """
    for other in specs.others:
        folder = config.checkpoint_dir(other)
        restored = trainer.restore(
            CheckpointStore(str(folder), keep=config.trainer.keep_checkpoints), on_corrupt, other
        )
        if restored is not None:
            changes = "; ".join(f"{change}: {change.trainer}" for change in compare(other, specs.current).changes)
            if CarryOver(other, specs.current, config.model).inner_starts_anew:
                changes += (
                    f"; of the dense part of {config.model.kind} nothing is known, so it starts anew but for its biases"
                )
            log.info(
                "going on from checkpoint %d of %s at %s (%s)", restored.version, folder, trainer.positions, changes
            )
            return restored
    log.info("no checkpoint in %s: model %s begins anew", config.checkpoint_dir(specs.current), config.model.name)
    return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""The trainer's loop on a list, a log and a store in memory, and a clock that tests move."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rillet.connectors.metric_files import MetricFiles, MetricSink
from rillet.embeddings import TableConfig
from rillet.pipelines.base_writer import BaseWriter
from rillet.pipelines.batch_stage import BatchStage
from rillet.pipelines.checkpoints import Checkpoints
from rillet.pipelines.publications import Publications
from rillet.pipelines.train_loop import TrainLoop
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import BackpressureError, ClosedError, RilletError, SpecRegistry, Stage, encode
from rillet.sync import MemoryLog, ModelStore, Publisher, PublisherConfig, TableShard
from rillet.trainer import (
    BadRecord,
    CheckpointStore,
    ExampleSource,
    ListSource,
    ModelConfig,
    OnlineTrainer,
    RawRecord,
    TrainerConfig,
)
from tests.trainer.blocks import RAGGED, later, make_block

NOW = 1_700_000_000_000
SPARSE_MS = 10_000
MODEL = ModelConfig(name="films", dim=4, hidden=(8,))
TABLE = TableConfig(initial_capacity=64)
TRAINER = TrainerConfig(batch_size=16, checkpoint_interval_s=3600.0)
PUBLISHER = PublisherConfig(sparse_interval_s=SPARSE_MS / 1000, base_interval_s=3600.0)


class Clock:
    """Stands still, or goes on by ``step_ms`` with every look at it."""

    def __init__(self, step_ms: int = 0) -> None:
        self.now_ms = NOW
        self.step_ms = step_ms

    def __call__(self) -> int:
        self.now_ms += self.step_ms
        return self.now_ms


class EndlessSource(ListSource):
    """Has nothing more to give after its records, and does not end."""

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        records = super().poll(max_items, timeout_s)
        if records is None:
            threading.Event().wait(0.001)
        return records or []


class Letters:
    """A ``Sink[BadRecord]`` that keeps letters, has no room for them, or fails to deliver them."""

    def __init__(self) -> None:
        self.taken: list[BadRecord] = []
        self.full = False
        self.refused = threading.Event()
        self.flush_error: RilletError | None = None
        self.closed = False

    def start(self) -> None:
        pass

    def submit(self, bad: BadRecord, /) -> None:
        if self.closed:
            raise ClosedError("closed")
        if self.full:
            self.refused.set()
            raise BackpressureError("full")
        self.taken.append(bad)

    def flush(self, timeout_s: float) -> None:
        if self.flush_error is not None:
            raise self.flush_error

    def close(self) -> None:
        self.closed = True


@dataclass
class Parts:
    """A loop and everything that it was made of; checkpoints are in a folder of the test, the rest in memory."""

    folder: Path
    source: ExampleSource
    clock: Clock = field(default_factory=Clock)
    log: MemoryLog = field(default_factory=MemoryLog)
    letters: Letters = field(default_factory=Letters)
    metrics: TrainMetrics = field(default_factory=lambda: TrainMetrics([task.name for task in RAGGED.tasks]))
    config: TrainerConfig = TRAINER
    #: beside the base writer; the log is not among them, so that a test can read it afterwards
    stages: Sequence[Stage] = ()
    batch_stage: BatchStage | None = None
    sinks: Sequence[MetricSink] = ()

    def __post_init__(self) -> None:
        self.store = ModelStore(f"memory://{uuid.uuid4().hex}", MODEL.name)
        self.checkpoint_store = CheckpointStore(str(self.folder / "checkpoints"), keep=3)
        self.trainer = OnlineTrainer(RAGGED, MODEL, TABLE, self.config)
        self.restored = self.trainer.restore(self.checkpoint_store, _no_corrupt)
        state = self.restored.extra["publisher"] if self.restored is not None else None
        self.publisher = Publisher(
            self.log,
            self.store,
            TableShard(self.store.model, RAGGED.model_hash),
            writer=uuid.uuid4().hex,
            config=PUBLISHER,
            state=state,
        )
        self.bases = BaseWriter(self.store, keep_bases=3, keep_dense=3, metrics=self.metrics)
        self.publications = Publications(
            self.trainer,
            self.publisher,
            self.bases,
            program=lambda: b"",  # making a real one takes seconds
            metrics=self.metrics,
        )
        self.checkpoints = Checkpoints(
            self.trainer,
            self.checkpoint_store,
            letters=self.letters,
            extra=lambda: {
                "publisher": self.publications.state(),
                "batch_stage": self.batch_stage and self.batch_stage.to_json(),
            },
            metrics=self.metrics,
            monotonic_s=lambda: self.clock.now_ms / 1000,
        )
        self.loop = TrainLoop(
            self.trainer,
            SpecRegistry(RAGGED),
            source=self.source,
            letters=self.letters,
            to_letter=lambda bad: bad,
            publications=self.publications,
            checkpoints=self.checkpoints,
            stages=[*self.stages, self.bases],
            metrics=self.metrics,
            metric_files=MetricFiles(self.metrics.registry, self.sinks, self.metrics.metric_file_failures),
            now_ms=self.clock,
            batch_stage=self.batch_stage,
            in_batch=lambda: bool(getattr(self.source, "in_batch", False)),
        )

    def run(self) -> None:
        """Runs the loop to the end of its source."""
        self.loop.run(threading.Event())

    def counted(self, name: str, **labels: str) -> float | None:
        """A metric of the trainer."""
        return self.metrics.registry.get_sample_value(f"rillet_train_{name}", labels)


def trainer_after(blocks: int, *, served: bool = True, rows: int = 200, closed: bool = False) -> OnlineTrainer:
    """A trainer after so many seeded blocks; with ``closed`` also after what closes all their label windows."""
    model, config = ModelConfig(dim=4, hidden=(8,)), TrainerConfig(batch_size=64, quality_rows=100)
    trainer = OnlineTrainer(RAGGED, model, TableConfig(initial_capacity=64), config)
    rng = np.random.default_rng(0)
    for offset in range(blocks):
        trainer.offer(0, offset, make_block(rng, rows, served=served), 0)
    if closed:
        trainer.offer(0, blocks, later(make_block(rng, 4_096, served=False), 10_000_000), 0)
    trainer.train(0, more=False, flush=True)
    return trainer


def encoded_blocks(count: int, rows: int = 40, seed: int = 0) -> list[bytes]:
    """Seeded example blocks as they are in the topic."""
    rng = np.random.default_rng(seed)
    return [encode(make_block(rng, rows)) for _ in range(count)]


def failing(error: Exception) -> Any:
    """A function that raises ``error`` whatever it is given."""

    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def _no_corrupt(error: Exception) -> None:
    raise error

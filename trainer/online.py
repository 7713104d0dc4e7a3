"""The online trainer: blocks in, batches trained, measured, and saved with the position in the stream.

It is driven from outside and never waits: ``offer`` what was read, ``train`` what is ready, ``take_freshness``
for what a publication should tell, ``save``. Killed anywhere and restored, it goes on to the same parameters as an
unkilled run, given the same order of records and no batches cut by time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, Freshness
from rillet.schemas.arrays import Int64s
from rillet.trainer.batch import Batch, BatchAssembler, Positions
from rillet.trainer.checkpoint import Arrays, CheckpointStore
from rillet.trainer.config import ModelConfig, TrainerConfig
from rillet.trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError
from rillet.trainer.export import dense_state
from rillet.trainer.learner import Learner, StepResult
from rillet.trainer.served_quality import ServedQuality

#: Steps refused one after another until the trainer gives up: the model itself must be broken then.
REFUSED_STEPS_LIMIT = 20
#: batches whose action times are gathered before they are cut to what a Freshness may hold
_BATCHES_BETWEEN_BOUNDS = 256
#: what the files of a checkpoint mean; to be raised with every change that an earlier or later version cannot go on from
CHECKPOINT_FORMAT = 2
#: prefix of the arrays of quality in a checkpoint
_QUALITY = "quality."


@dataclass(slots=True)
class Counters:
    """What happened since the very first example; travels in checkpoints."""

    batches: int = 0
    partial_batches: int = 0
    rows: int = 0
    positive_rows: int = 0
    #: batches whose loss or gradient was not finite and that taught nothing
    refused_batches: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What a run was restored from."""

    version: int
    #: what :meth:`OnlineTrainer.save` was given to keep
    extra: dict[str, Any]


class OnlineTrainer:
    """A learner with its stream position, metrics and counters."""

    def __init__(self, spec: FeatureSpec, model: ModelConfig, table: TableConfig, config: TrainerConfig) -> None:
        """
        :raises ModelError: the model cannot be built.
        :raises TrainerError: stretches of quality that are too short for a task's label window.
        """
        self.spec = spec
        self.model_config = model
        self.table_config = table
        self.config = config
        torch.manual_seed(model.seed)
        self.learner = Learner(spec, model, table)
        self.counters = Counters()
        #: after the last row that was trained on
        self.positions: Positions = {}
        self.newest_event_ms = NO_TIME_MS
        self.newest_ingest_ms = NO_TIME_MS
        #: of the served logits, where they were recorded; never of what is predicted here
        self.quality = ServedQuality(spec.tasks, config)
        self._loss_sum, self._loss_rows = 0.0, 0
        self._assembler = BatchAssembler(spec)
        self._resume: Positions = {}
        self._next: dict[int, int] = {}
        #: of the actions trained on since the last take_freshness; those of the last batches are not merged in yet
        self._actions = Freshness()
        self._action_times: list[Int64s] = []
        self._refused_in_a_row = 0

    @property
    def table(self) -> EmbeddingTable:
        """The embedding table; its touched set feeds the publisher."""
        return self.learner.table

    @property
    def waiting_rows(self) -> int:
        """Rows offered and not trained on yet."""
        return len(self._assembler)

    def offer(self, partition: int, offset: int, block: ExampleBlock | None, now_ms: int) -> None:
        """Queues the next record; None for one that was refused.

        :raises TrainerError: the record lies before the position, so training on it would count it twice.
        """
        expected = self._next.get(partition, 0)
        if offset < expected:
            raise TrainerError(
                f"examples partition {partition}: got offset {offset} after position {expected};"
                " the source must start at the trainer's positions and keep a partition's order"
            )
        self._next[partition] = offset + 1
        at, rows = self._resume.pop(partition, (-1, 0))
        self._assembler.add(partition, offset, block, now_ms, skip_rows=rows if at == offset else 0)

    def train(self, now_ms: int, *, more: bool, flush: bool = False) -> int:
        """Trains on every batch that is ready.

        :param more: there is more input, so a batch that is not full waits, whatever its age.
        :param flush: train on what is left, however few rows.
        :returns: steps taken.
        :raises ModelError: every one of the last steps was refused because its loss was not finite.
        """
        steps = 0
        while (batch := self._take()) is not None:
            self._step(batch)
            steps += 1
        oldest = self._assembler.oldest_ms
        due = oldest is not None and not more and now_ms - oldest >= self.config.max_wait_ms
        if (flush or due) and (batch := self._take(partial=True)) is not None:
            self.counters.partial_batches += 1
            self._step(batch)
            steps += 1
        self.positions.update(self._assembler.drain_empty())
        return steps

    def take_freshness(self) -> Freshness:
        """What the next publication tells of its freshness; its action times are handed over once, and are bounded."""
        freshness = self._freshness()
        self._actions, self._action_times = Freshness(), []
        return freshness

    def take_training_loss(self) -> float:
        """Mean loss per row learned from since the last call, in nats, corrected for sampling; NaN when there was none.

        It tells whether learning is sound, and nothing about quality: see :attr:`quality` for that.
        """
        loss = self._loss_sum / self._loss_rows if self._loss_rows else float("nan")
        self._loss_sum, self._loss_rows = 0.0, 0
        return loss

    def save(self, store: CheckpointStore, extra: Mapping[str, Any] | None = None) -> int:
        """Writes everything as one version: table with its touched set, dense, optimiser, metrics, position.

        Rows that were offered and not trained on are left out; the position makes the source give them again.

        :param extra: plain JSON values to keep beside it, of the same moment.
        :returns: the version.
        """
        freshness = self._freshness()
        progress: Arrays = {
            "action_ingest_ms": freshness.action_ingest_ms,
            "torch_random": torch.get_rng_state().numpy(),
        }
        progress |= {f"{_QUALITY}{key}": value for key, value in self.quality.state().items()}
        files: dict[str, Arrays] = {
            "table": self.table.state(),
            "dense": dense_state(self.learner.model),
            "optimizer": self.learner.optimizer_state(),
            "progress": progress,
        }
        meta = {
            "format": CHECKPOINT_FORMAT,
            **self._identity(),
            "positions": {str(partition): list(position) for partition, position in self.positions.items()},
            "newest_event_ms": self.newest_event_ms,
            "newest_ingest_ms": self.newest_ingest_ms,
            "action_times_left_out": freshness.action_times_left_out,
            "counters": asdict(self.counters),
            "model": asdict(self.model_config),
            "extra": dict(extra or {}),
        }
        return store.save(files, meta)

    def restore(self, store: CheckpointStore, on_corrupt: Callable[[CorruptCheckpointError], None]) -> Restored | None:
        """Goes on from the newest intact version; to be called before anything is offered.

        :param on_corrupt: called for each newer version that was refused.
        :returns: version and extras, None when there is no checkpoint.
        :raises CorruptCheckpointError: there are versions, but none is intact.
        :raises CheckpointError: it is of another spec or model, or of another version of rillet.
        """
        checkpoint = store.load_newest(on_corrupt)
        if checkpoint is None:
            return None
        meta, files = checkpoint.meta, checkpoint.files
        self._refuse_foreign(checkpoint.version, meta)
        table = EmbeddingTable.from_state(self.model_config.row_dim, self.table_config, files["table"])
        self.learner.load(files["dense"], files["optimizer"], table)
        progress = files["progress"]
        torch.set_rng_state(torch.from_numpy(np.array(progress["torch_random"])))
        self.quality.load_state(
            {key.removeprefix(_QUALITY): value for key, value in progress.items() if key.startswith(_QUALITY)}
        )
        times = np.array(progress["action_ingest_ms"], np.int64)
        self._actions = Freshness(action_ingest_ms=times, action_times_left_out=meta["action_times_left_out"])
        self._action_times = []
        self.positions = {int(p): (int(offset), int(row)) for p, (offset, row) in meta["positions"].items()}
        self._resume = dict(self.positions)
        self._next = {partition: offset for partition, (offset, _) in self.positions.items()}
        self.newest_event_ms = meta["newest_event_ms"]
        self.newest_ingest_ms = meta["newest_ingest_ms"]
        known = {f.name for f in fields(Counters)}
        self.counters = Counters(**{name: count for name, count in meta["counters"].items() if name in known})
        return Restored(checkpoint.version, meta["extra"])

    def _take(self, *, partial: bool = False) -> Batch | None:
        return self._assembler.take(self.config.batch_rows(self.counters.rows), partial=partial)

    def _step(self, batch: Batch) -> StepResult:
        self.newest_event_ms = max(self.newest_event_ms, batch.newest_event_ms)
        factor = self.config.row_step_factor(self.counters.rows)
        result = self.learner.step(batch, self.newest_event_ms, factor)
        self.quality.add(batch)
        self.positions.update(batch.positions)
        counters = self.counters
        counters.batches += 1
        counters.rows += len(batch)
        counters.positive_rows += int(np.count_nonzero(batch.labels.any(axis=1)))
        self._refused_in_a_row = self._refused_in_a_row + 1 if result.refused else 0
        if result.refused:
            counters.refused_batches += 1
            if self._refused_in_a_row >= REFUSED_STEPS_LIMIT:
                raise ModelError(
                    f"the loss of {REFUSED_STEPS_LIMIT} batches in a row is not finite, at positions {self.positions};"
                    " lower the learning rates and restart from an earlier checkpoint"
                )
            return result
        self._loss_sum += result.loss * len(batch)
        self._loss_rows += len(batch)
        self.newest_ingest_ms = max(self.newest_ingest_ms, batch.newest_ingest_ms)
        if len(batch.action_ingest_ms):
            self._action_times.append(batch.action_ingest_ms)
            # Long without a publication: bounded now and then instead of gathering without end.
            if len(self._action_times) > _BATCHES_BETWEEN_BOUNDS:
                self._actions, self._action_times = self._freshness(), []
        return result

    def _freshness(self) -> Freshness:
        times = np.concatenate(self._action_times) if self._action_times else np.empty(0, np.int64)
        return self._actions.merged(Freshness(self.newest_event_ms, self.newest_ingest_ms, times))

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that restores it must have in common."""
        model = self.model_config
        return {
            "spec_hash": self.spec.hash,
            "crosses": [str(cross) for cross in self.spec.crosses],
            "kind": model.kind,
            "row_dim": model.row_dim,
            "hidden": [] if model.kind == "logistic" else list(model.hidden),
            "table_optimizer": self.table_config.optimizer,
        }

    def _refuse_foreign(self, version: int, meta: dict[str, Any]) -> None:
        if (found := meta.get("format", 1)) != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"checkpoint {version}: written by another version of rillet, in format {found}, this one reads format"
                f" {CHECKPOINT_FORMAT}; go on with that version, or give the model another name or data directory and let"
                " it learn from the topic's beginning"
            )
        for name, ours in self._identity().items():
            if meta.get(name) != ours:
                raise CheckpointError(
                    f"checkpoint {version}: its {name} is {meta.get(name)!r}, the configuration says {ours!r};"
                    " restore the configuration, or give the new model another name or data directory"
                )

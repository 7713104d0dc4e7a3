"""The online trainer: blocks in, batches trained, measured, and saved with the position in the stream.

It is driven from outside and never waits: ``offer`` what was read, ``train`` what is ready, ``take_freshness``
for what a publication should tell, ``save_point``. Killed anywhere and restored, it goes on to the same parameters as an
unkilled run, given the same order of records and no batches cut by time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import torch

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, Freshness
from rillet.schemas.arrays import Bools, Int64s
from rillet.trainer.batch import Batch, BatchAssembler, Positions
from rillet.trainer.carry_over import LEARNED, QUALITY, RANGES, CarryOver
from rillet.trainer.checkpoint import Arrays, CheckpointStore
from rillet.trainer.config import ModelConfig, TrainerConfig, likelihood_share
from rillet.trainer.counters import Counters, Restored
from rillet.trainer.dense_ranges import DenseRanges
from rillet.trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError
from rillet.trainer.event_clock import EventClock
from rillet.trainer.export import dense_state
from rillet.trainer.learner import Learner
from rillet.trainer.reader import BadRecord
from rillet.trainer.save_point import SavePoint
from rillet.trainer.screening import Reason, RefusedRow, Screen, as_bad_record
from rillet.trainer.served_quality import ServedQuality

#: Batches one after another of which no row could be learned from, until the trainer looks whether the model is broken.
REFUSED_BATCHES_LIMIT = 20
#: batches between two samples of rows that were learned from, and rows of a sample
_BATCHES_BETWEEN_SAMPLES = 64
_SAMPLE_ROWS = 64
#: rows that the share of refused ones is of
_SHARE_ROWS = 4_096
#: batches whose action times are gathered before they are cut to what a Freshness may hold
_BATCHES_BETWEEN_BOUNDS = 256
#: what the files of a checkpoint mean; to be raised with every change that an earlier or later version cannot go on from
CHECKPOINT_FORMAT = 8


class OnlineTrainer:
    """A learner with its stream position, metrics and counters."""

    def __init__(self, spec: FeatureSpec, model: ModelConfig, table: TableConfig, config: TrainerConfig) -> None:
        """
        :raises ModelError: the model cannot be built.
        :raises TrainerError: stretches of quality that are too short for a task's label window; a weight decay that takes
            away more than all of a weight in the first steps.
        """
        largest = table.learning_rate * table.weight_decay * max(config.first_step_factor, 1.0)
        if largest >= 1:
            raise TrainerError(
                f"table.weight_decay: {table.weight_decay} times table.learning_rate {table.learning_rate} times"
                f" trainer.first_step_factor {config.first_step_factor} is not below 1: steps would turn weights around"
            )
        self.spec = spec
        self.model_config = model
        self.table_config = table
        self.config = config
        torch.manual_seed(model.seed)
        self.learner = Learner(spec, model, table)
        self.counters = Counters()
        #: after the last row that was trained on
        self.positions: Positions = {}
        #: by when rows' events happened, and by when they were ingested
        self._event_clock, self._ingest_clock = EventClock(), EventClock()
        #: of the served logits, where they were recorded; never of what is predicted here
        self.quality = ServedQuality(spec.tasks, config)
        self._loss_sum, self._loss_rows = 0.0, 0
        self._screen = Screen(spec, config)
        self._ranges = DenseRanges(len(spec.dense), config.max_dense_spreads)
        self._assembler = BatchAssembler(spec)
        self._resume: Positions = {}
        self._next: dict[int, int] = {}
        #: of the actions trained on since the last take_freshness; those of the last batches are not merged in yet
        self._actions = Freshness()
        self._action_times: list[Int64s] = []
        #: of the newest rows, some thousands, those that were not learned from; begins anew with each run
        self.refused_share = 0.0
        self._refused_in_a_row = 0
        #: a few rows that were learned from not long ago
        self._learned_batch: Batch | None = None

    @property
    def table(self) -> EmbeddingTable:
        """The embedding table; its touched set feeds the publisher."""
        return self.learner.table

    @property
    def newest_event_ms(self) -> int:
        """What the newest events have reached; a few wrong clocks among them do not move it."""
        return self._event_clock.newest_ms

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

    def train(
        self, now_ms: int, *, more: bool, flush: bool = False, on_refused: Callable[[BadRecord], None] | None = None
    ) -> int:
        """Trains on every batch that is ready.

        :param more: there is more input, so a batch that is not full waits, whatever its age.
        :param flush: train on what is left, however few rows.
        :param on_refused: takes each row that is not learned from, before a position passes it. What it raises ends
            the call in the midst of a batch: nothing may be saved then.
        :returns: batches taken.
        :raises ModelError: no row of the last batches could be learned from.
        """
        steps = 0
        while (batch := self._take()) is not None:
            self._step(batch, on_refused)
            steps += 1
        oldest = self._assembler.oldest_ms
        due = oldest is not None and not more and now_ms - oldest >= self.config.max_wait_ms
        if (flush or due) and (batch := self._take(partial=True)) is not None:
            self.counters.partial_batches += 1
            self._step(batch, on_refused)
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

    def save_point(self, extra: Mapping[str, Any] | None = None) -> SavePoint:
        """All that makes this moment, to be written while training goes on: table with its touched set, dense, optimiser,
        metrics, position.

        Rows that were offered and not trained on are left out; the position makes the source give them again.

        :param extra: plain JSON values to keep beside it, of the same moment.
        :raises ModelError: a weight is not finite.
        """
        freshness = self._freshness()
        event_times, event_clock = self._event_clock.state()
        ingest_times, ingest_clock = self._ingest_clock.state()
        progress: Arrays = {
            "action_ingest_ms": freshness.action_ingest_ms,
            "torch_random": torch.get_rng_state().numpy(),
            "event_times_ms": event_times,
            "ingest_times_ms": ingest_times,
        }
        progress |= self._learned_of_rows()
        if self._learned_batch is not None:
            progress |= {f"{LEARNED}{name}": column for name, column in self._learned_batch.state().items()}
        files: dict[str, Arrays] = {
            "dense": dense_state(self.learner.model),
            # These go on changing where they are.
            "optimizer": _copies(self.learner.optimizer_state()),
            "progress": _copies(progress),
        }
        meta = {
            "format": CHECKPOINT_FORMAT,
            **self._identity(self.spec),
            "positions": {str(partition): list(position) for partition, position in self.positions.items()},
            "event_clock": event_clock,
            "ingest_clock": ingest_clock,
            "action_times_left_out": freshness.action_times_left_out,
            "counters": asdict(self.counters),
            "model": asdict(self.model_config),
            "extra": dict(extra or {}),
        }
        return SavePoint(self.table.snapshot(), files, meta)

    def save(self, store: CheckpointStore, extra: Mapping[str, Any] | None = None) -> int:
        """Writes a :meth:`save_point` at once; training waits.

        :returns: the version.
        :raises ModelError: a weight is not finite.
        """
        point = self.save_point(extra)
        try:
            return point.write(store, iter(point.table.take, None))
        finally:
            point.table.close()

    def restore(
        self,
        store: CheckpointStore,
        on_corrupt: Callable[[CorruptCheckpointError], None],
        spec: FeatureSpec | None = None,
    ) -> Restored | None:
        """Goes on from the newest intact version; to be called before anything is offered.

        :param on_corrupt: called for each newer version that was refused.
        :param spec: of the checkpoint, where it is another one than ours: what it has is carried over by name.
        :returns: version and extras, None when there is no checkpoint.
        :raises CorruptCheckpointError: there are versions, but none is intact.
        :raises CheckpointError: it is of another spec or model, or of another version of rillet.
        """
        checkpoint = store.load_newest(on_corrupt)
        if checkpoint is None:
            return None
        meta, files = checkpoint.meta, checkpoint.files
        self._refuse_foreign(checkpoint.version, meta, spec or self.spec)
        if spec is not None:
            fresh = {
                "dense": dense_state(self.learner.model),
                "optimizer": self.learner.optimizer_state(),
                "progress": self._learned_of_rows(),
            }
            files = CarryOver(spec, self.spec, self.model_config).files(files, fresh)
        table = EmbeddingTable.from_state(self.model_config.row_dim, self.table_config, files["table"])
        self.learner.load(files["dense"], files["optimizer"], table)
        progress = files["progress"]
        torch.set_rng_state(torch.from_numpy(np.array(progress["torch_random"])))
        self.quality.load_state(_with_prefix(progress, QUALITY))
        self._ranges.load_state(_with_prefix(progress, RANGES))
        learned = _with_prefix(progress, LEARNED)
        self._learned_batch = Batch.from_state(learned) if learned else None
        times = np.array(progress["action_ingest_ms"], np.int64)
        self._actions = Freshness(action_ingest_ms=times, action_times_left_out=meta["action_times_left_out"])
        self._action_times = []
        self._event_clock.load_state(np.array(progress["event_times_ms"], np.int64), meta["event_clock"])
        self._ingest_clock.load_state(np.array(progress["ingest_times_ms"], np.int64), meta["ingest_clock"])
        self.positions = {int(p): (int(offset), int(row)) for p, (offset, row) in meta["positions"].items()}
        self._resume = dict(self.positions)
        self._next = {partition: offset for partition, (offset, _) in self.positions.items()}
        known = {f.name for f in fields(Counters)}
        self.counters = Counters(**{name: count for name, count in meta["counters"].items() if name in known})
        self.counters.refused_rows = Counters().refused_rows | self.counters.refused_rows
        return Restored(checkpoint.version, meta["extra"])

    def _learned_of_rows(self) -> Arrays:
        quality = {f"{QUALITY}{name}": array for name, array in self.quality.state().items()}
        return quality | {f"{RANGES}{name}": array for name, array in self._ranges.state().items()}

    def _take(self, *, partial: bool = False) -> Batch | None:
        return self._assembler.take(self.config.batch_rows(self.counters.rows), partial=partial)

    def _step(self, batch: Batch, on_refused: Callable[[BadRecord], None] | None) -> None:
        self.counters.batches += 1
        taught: Bools = batch.mask.any(axis=1)
        if not taught.all():
            # Of tasks that our spec does not have; see :meth:`rillet.schemas.SpecRegistry.block`.
            self.counters.other_task_rows += int(np.count_nonzero(~taught))
            batch = batch.select(taught)
        rows, learned = len(batch), self.counters.rows
        if refused := self._screen.refused(batch):
            self._refuse(batch, refused, on_refused)
            sound = np.ones(len(batch), np.bool_)
            sound[[row.row for row in refused]] = False
            batch = batch.select(sound)
        if len(batch):
            self._tell_time(batch)
            self.quality.add(batch)
            batch = self._in_range(batch)
            config = self.config
            factors = tuple(of(learned) for of in (config.row_step_factor, config.dense_step_factor, likelihood_share))
            self._learn(batch, factors, on_refused)
            self._refused_in_a_row = 0 if self.counters.rows > learned else self._refused_in_a_row + 1
            if self._refused_in_a_row >= REFUSED_BATCHES_LIMIT:
                self._judge_model()
        if rows:
            share = 1 - (self.counters.rows - learned) / rows
            self.refused_share += (share - self.refused_share) * min(rows / _SHARE_ROWS, 1.0)
        self.positions.update(batch.positions)

    def _learn(self, batch: Batch, factors: tuple[float, ...], on_refused: Callable[[BadRecord], None] | None) -> None:
        """Learns from all rows that can be learned from: in one step, and in halves where no row is at fault alone."""
        result = self.learner.step(batch, self._event_clock.now_ms, self._event_clock.decay_ms, *factors)
        counters, n = self.counters, len(batch)
        if result.refused:
            unsound = np.ones(1, np.bool_) if n == 1 else self.learner.unsound(batch)
            if unsound.any():
                problem = "its logit, its loss, a gradient or the square of one is not finite"
                rows = np.flatnonzero(unsound).tolist()
                self._refuse(batch, [RefusedRow(row, Reason.UNLEARNABLE, problem) for row in rows], on_refused)
                if len(rows) < n:
                    self._learn(batch.select(~unsound), factors, on_refused)
                return
            counters.split_batches += 1
            first = np.arange(n) < n // 2
            self._learn(batch.select(first), factors, on_refused)
            self._learn(batch.select(~first), factors, on_refused)
            return
        if self._learned_batch is None or counters.batches % _BATCHES_BETWEEN_SAMPLES == 0:
            self._learned_batch = batch.select(np.arange(n) < _SAMPLE_ROWS)
        counters.rows += n
        counters.positive_rows += int(np.count_nonzero(batch.labels.any(axis=1)))
        counters.clipped_rows += result.clipped_rows
        counters.clipped_steps += result.clipped_dense
        self._loss_sum += result.loss * n
        self._loss_rows += n
        actions = batch.action_ingest_ms[batch.action_ingest_ms != NO_TIME_MS]
        if len(actions):
            self._action_times.append(actions)
            # Long without a publication: bounded now and then instead of gathering without end.
            if len(self._action_times) > _BATCHES_BETWEEN_BOUNDS:
                self._actions, self._action_times = self._freshness(), []

    def _in_range(self, batch: Batch) -> Batch:
        dense, counts = self._ranges.replace(batch.dense)
        if not counts.any():
            return batch
        for feature in np.flatnonzero(counts).tolist():
            name = self.spec.dense[feature].name
            replaced = self.counters.replaced_dense
            replaced[name] = replaced.get(name, 0) + int(counts[feature])
        return replace(batch, dense=dense)

    def _judge_model(self) -> None:
        """Nothing was learned for long: tells data that cannot be learned from apart from a model that cannot learn.

        :raises ModelError: not even rows that were learned from before could be any more.
        """
        known = self._learned_batch
        if known is None or self.learner.unsound(known).all():
            raise ModelError(
                f"no row of {REFUSED_BATCHES_LIMIT} batches in a row could be learned from, at positions {self.positions},"
                " nor could rows that were learned from before: loss or gradients are not finite; lower the learning rates,"
                " delete the newest checkpoints (folders checkpoint-NUMBER below data_dir/checkpoints) and start again"
            )
        self._refused_in_a_row = 0

    def _refuse(
        self, batch: Batch, refused: Sequence[RefusedRow], on_refused: Callable[[BadRecord], None] | None
    ) -> None:
        for row in refused:
            if on_refused is not None:
                on_refused(as_bad_record(batch, row))
            self.counters.refused_rows[row.reason] += 1

    def _tell_time(self, batch: Batch) -> None:
        """Not the newest time of all: a single event from the future would hold for all that comes after it."""
        # Of each row the later event. The rows of a request at one time count once, however long it was.
        self._event_clock.add(np.maximum(batch.feature_time_ms, batch.action_time_ms))
        self._ingest_clock.add(np.maximum(batch.feature_ingest_ms, batch.action_ingest_ms))

    def _freshness(self) -> Freshness:
        times = np.concatenate(self._action_times) if self._action_times else np.empty(0, np.int64)
        return self._actions.merged(Freshness(self._event_clock.newest_ms, self._ingest_clock.newest_ms, times))

    def _identity(self, spec: FeatureSpec) -> dict[str, Any]:
        """What a checkpoint of a spec and the run that restores it must have in common."""
        model = self.model_config
        return {
            "spec_hash": spec.hash,
            "crosses": [str(cross) for cross in spec.crosses],
            "transforms": {dense.name: dense.transform for dense in spec.dense},
            "kind": model.kind,
            "row_dim": model.row_dim,
            "hidden": [] if model.kind == "logistic" else list(model.hidden),
            "table_optimizer": self.table_config.optimizer,
            "dense_amsgrad": model.dense_amsgrad,
        }

    def _refuse_foreign(self, version: int, meta: dict[str, Any], spec: FeatureSpec) -> None:
        if (found := meta.get("format", 1)) != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"checkpoint {version}: written by another version of rillet, in format {found}, this one reads format"
                f" {CHECKPOINT_FORMAT}; go on with that version, or give the model another name or data directory and let"
                " it learn from the topic's beginning"
            )
        for name, ours in self._identity(spec).items():
            if meta.get(name) != ours:
                raise CheckpointError(
                    f"checkpoint {version}: its {name} is {meta.get(name)!r}, the configuration says {ours!r};"
                    " restore the configuration, or give the new model another name or data directory"
                )


def _copies(arrays: Arrays) -> Arrays:
    return {name: np.array(array) for name, array in arrays.items()}


def _with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """Those whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): np.array(array) for name, array in arrays.items() if name.startswith(prefix)}

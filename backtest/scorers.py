"""What is compared: things that score a request as they stand, and learn from the examples that have become visible.

A model is the production trainer, publisher, delta log, replica and predictor, in one process. Baselines count.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from rillet.jobs.config import RilletConfig
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from rillet.schemas.arrays import Float32s, Int64s
from rillet.schemas.fid import VALUE_BITS
from rillet.serving.features import ScoreRequest
from rillet.serving.predictor import Predictor
from rillet.sync import Dense, MemoryLog, ModelStore, Publisher, Replica, TableShard
from rillet.trainer import OnlineTrainer, build_model, dense_state

#: of one call of the predictor
_BATCH_REQUESTS = 256


class Scorer(Protocol):
    """One column of a backtest. Time is event time; calls come in its order."""

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """Takes a block of examples that can be read from ``visible_ms`` on."""

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """Serves from now on what was learned so far; the network's weights only where ``dense``."""

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """Logits float32[impressions, T] of requests, one after the other, by what is served."""


class ModelScorer:
    """The production path of one configuration."""

    def __init__(self, spec: FeatureSpec, config: RilletConfig) -> None:
        """
        :raises ModelError: the model cannot be built.
        """
        self.trainer = OnlineTrainer(spec, config.model, config.table, config.trainer)
        store = ModelStore(f"memory://backtest-{uuid.uuid4().hex}", config.model.name)
        self._log = MemoryLog()
        shard = TableShard(config.model.name, spec.hash)
        self._publisher = Publisher(self._log, store, shard, writer="backtest", config=config.publisher)
        store.write_base(
            self._publisher.snapshot(
                self.trainer.table,
                now_ms=0,
                dense=dense_state(self.trainer.learner.model),
                # The served network is built from its code: exporting it takes seconds and gives the same logits.
                program=b"",
                spec_toml="",
            )
        )
        self._replica = Replica(store, self._log, shard, config=config.replica)
        self._replica.load()
        self._network = _Network(build_model(config.model, spec))
        self._network.load(self._replica.dense)
        self._predictor = Predictor(spec)
        self._tasks = len(spec.tasks)
        self._offset = 0
        self._trained_rows = 0

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`Scorer`."""
        self.trainer.offer(0, self._offset, block, visible_ms)
        self._offset += 1
        self.trainer.train(visible_ms, more=True)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`Scorer`."""
        trainer = self.trainer
        trainer.train(now_ms, more=False)
        trained_rows = trainer.counters.rows
        if trained_rows == self._trained_rows:
            return
        self._trained_rows = trained_rows
        version = self._replica.version
        self._publisher.publish(
            trainer.table,
            now_ms=now_ms,
            freshness=trainer.take_freshness(),
            dense=dense_state(trainer.learner.model) if dense or self._publisher.dense_outgrown(trained_rows) else None,
            trained_rows=trained_rows,
        )
        self._replica.catch_up(now_ms)
        self._log.truncate(self._log.end())
        if self._replica.version != version:
            self._network.load(self._replica.dense)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`Scorer`."""
        parts: list[Float32s] = []
        for first in range(0, len(requests), _BATCH_REQUESTS):
            batch = [ScoreRequest.of_event(event) for event in requests[first : first + _BATCH_REQUESTS]]
            parts += self._predictor.score(self._replica.table, self._network, batch)
        return np.concatenate(parts) if parts else np.empty((0, self._tasks), np.float32)


class FrozenScorer:
    """Another scorer as it stood at a moment of event time."""

    def __init__(self, live: ModelScorer, until_ms: int) -> None:
        self._live = live
        self._until_ms = until_ms

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`Scorer`."""
        if visible_ms <= self._until_ms:
            self._live.learn(visible_ms, block)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`Scorer`."""
        if now_ms <= self._until_ms:
            self._live.publish(now_ms, dense=dense)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`Scorer`."""
        return self._live.score(requests)


class PopularityScorer:
    """Ranks by how many positives an item has had, per task: what any model has to beat.

    The item is the value of the first slot of an impression. With a half-life old positives fade.
    """

    def __init__(self, spec: FeatureSpec, half_life_ms: int | None = None) -> None:
        self._slot = spec.item[0].slot
        self._tasks = len(spec.tasks)
        self._half_life_ms = half_life_ms
        self._learned: dict[int, Float32s] = {}
        self._served: dict[int, Float32s] = {}
        self._zero_ms: int | None = None

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`Scorer`."""
        positive = np.flatnonzero(block.label_kind != LabelKind.NEGATIVE)
        if not len(positive):
            return
        self._zero_ms = visible_ms if self._zero_ms is None else self._zero_ms
        # Instead of fading all counts as time passes, a new positive weighs more: ranks are the same.
        weight = 1.0
        if self._half_life_ms is not None:
            weight = 2.0 ** min((visible_ms - self._zero_ms) / self._half_life_ms, 100.0)
        items = self._items_of_rows(block)[positive]
        labels = block.labels.reshape(-1, self._tasks)[positive]
        for item, label in zip(items.tolist(), labels, strict=True):
            count = self._learned.get(item)
            self._learned[item] = label * np.float32(weight) if count is None else count + label * np.float32(weight)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`Scorer`."""
        self._served.update(self._learned)
        self._learned = dict(self._served)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`Scorer`."""
        none = np.zeros(self._tasks, np.float32)
        items = [fid for event in requests for fid in self._items_of_event(event).tolist()]
        counts = np.array([self._served.get(item, none) for item in items], np.float32)
        ranks: Float32s = np.log1p(counts.reshape(-1, self._tasks))
        return ranks

    def _items_of_rows(self, block: ExampleBlock) -> Int64s:
        items: Int64s = block.fids[block.fids >> VALUE_BITS == self._slot]
        return items

    def _items_of_event(self, event: FeatureEvent) -> Int64s:
        items: Int64s = event.item_fids[event.item_fids >> VALUE_BITS == self._slot]
        return items


class _Network:
    """The dense part of a model, as the server would run it: weights of the last publication, no training mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.eval()

    def load(self, weights: Dense) -> None:
        self._module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})

    def __call__(self, embeddings: Float32s, dense: Float32s) -> Float32s:
        with torch.inference_mode():
            logits: Float32s = self._module(torch.from_numpy(embeddings), torch.from_numpy(dense)).numpy()
        return logits

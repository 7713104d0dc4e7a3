"""What is compared: things that score a request as they stand, and learn from the examples that have become visible.

A model is the production trainer, publisher, delta log, replica and predictor, in one process.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

import fsspec
import numpy as np
import torch
from torch import nn

from rillet.jobs.config import RilletConfig
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s, Int64s
from rillet.serving.features import ScoreRequest
from rillet.serving.predictor import Predictor, check_logits
from rillet.sync import Dense, MemoryLog, ModelStore, Publisher, Replica, TableShard
from rillet.trainer import OnlineTrainer, build_model, dense_state

#: of one call of the predictor
_BATCH_REQUESTS = 256
#: versions of the network's weights after which those that are not served any more are forgotten
_DENSE_BLOBS = 256


class Scorer(Protocol):
    """One column of a backtest. Time is event time; calls come in its order."""

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """Takes a block of examples that can be read from ``visible_ms`` on."""

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """Serves from now on what was learned so far; the network's weights only where ``dense``."""

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """Logits float32[impressions, T] of requests, one after the other, by what is served."""

    def close(self) -> None:
        """Releases what it holds; it is not asked again."""


class ModelScorer:
    """The production path of one configuration."""

    def __init__(self, spec: FeatureSpec, config: RilletConfig) -> None:
        """
        :raises ModelError: the model cannot be built.
        """
        self.trainer = OnlineTrainer(spec, config.model, config.table, config.trainer)
        self._url = f"memory://backtest-{uuid.uuid4().hex}"
        store = self._store = ModelStore(self._url, config.model.name)
        self._log = MemoryLog()
        shard = TableShard(config.model.name, spec.model_hash)
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
        #: rows that it was given by the last publication, int64[T, 2]: negatives and positives
        self.learned: Int64s = np.zeros((self._tasks, 2), np.int64)
        self._uncounted: list[ExampleBlock] = []
        self._offset = self._dense_blobs = 0
        #: since when the newest block can be read
        self._visible_ms = -1
        #: rows trained on by the last publication, and by the last one of the network's weights
        self._published_rows = self._dense_rows = 0

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`Scorer`."""
        self._uncounted.append(block)
        # Blocks of one commit come together. Before the next, rows that have waited for long enough were trained on.
        if visible_ms != self._visible_ms:
            self.trainer.train(visible_ms, more=False)
            self._visible_ms = visible_ms
        self.trainer.offer(0, self._offset, block, visible_ms)
        self._offset += 1

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`Scorer`."""
        self._count()
        trainer = self.trainer
        trainer.train(now_ms, more=False)
        rows = trainer.counters.rows
        dense = (dense and rows > self._dense_rows) or self._publisher.dense_outgrown(rows)
        if rows == self._published_rows and not dense:
            return
        self._published_rows = rows
        if dense:
            self._dense_rows = rows
        version = self._replica.version
        self._publisher.publish(
            trainer.table,
            now_ms=now_ms,
            freshness=trainer.take_freshness(),
            dense=dense_state(trainer.learner.model) if dense else None,
            trained_rows=rows,
        )
        self._replica.catch_up(now_ms)
        self._log.truncate(self._log.end())
        if self._replica.version != version:
            self._network.load(self._replica.dense)
            self._dense_blobs += 1
            if self._dense_blobs % _DENSE_BLOBS == 0:
                self._store.collect_garbage(1, 1)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`Scorer`."""
        parts: list[Float32s] = []
        for first in range(0, len(requests), _BATCH_REQUESTS):
            batch = [ScoreRequest.of_event(event) for event in requests[first : first + _BATCH_REQUESTS]]
            parts += self._predictor.score(self._replica.table, self._network, batch)
        return check_logits(np.concatenate(parts)) if parts else np.empty((0, self._tasks), np.float32)

    def _count(self) -> None:
        if not self._uncounted:
            return
        labels, mask = (
            np.concatenate([getattr(block, name) for block in self._uncounted]).reshape(-1, self._tasks) != 0
            for name in ("labels", "mask")
        )
        self.learned += np.stack([(mask & ~labels).sum(axis=0), (mask & labels).sum(axis=0)], axis=1)
        self._uncounted.clear()

    def close(self) -> None:
        """Forgets what was published."""
        fsspec.filesystem("memory").rm(self._url, recursive=True)


class FrozenScorer:
    """Another scorer as it stood after the publications up to a moment of event time."""

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

    def close(self) -> None:
        """See :class:`Scorer`."""
        self._live.close()


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

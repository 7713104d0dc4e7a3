"""A small loop for tests: requests of ten candidates, served by the trainer's model of the moment, labels with their delays.

Publication is immediate, so that what is predicted while training and what was served differ by nothing but the time at
which they were predicted.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import NO_TIME_MS, ExampleBlock, LabelKind, make_fids, parse_spec
from rillet.schemas.arrays import Bools, Float32s, Int64s, UInt8s
from rillet.schemas.example_rows import split_rows
from rillet.trainer import ModelConfig, OnlineTrainer, TrainerConfig

WINDOW_MS = 600_000
SPEC = parse_spec(
    f"""
[spec]
name = "pages"
[[context]]
name = "user"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 16
kind = "id"
[[tasks]]
name = "watch"
action = "watch"
window_ms = {WINDOW_MS}
labels = "positives_first"
"""
)
_CANDIDATES = 10
_FILMS = 200
#: between two requests
_GAP_MS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Logits and labels of all rows, in the order in which they were trained on or served."""

    logits: Float32s
    labels: Bools
    #: int64[n], time of the request
    time_ms: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What came out: of each impression what was served, of each row what was predicted when it was trained on."""

    served: Judged
    training: Judged
    trainer: OnlineTrainer


def simulate(kind: str, *, requests: int, users: int, dense_learning_rate: float, seed: int = 0) -> Run:
    """Serves and learns: positives a few seconds after their request, negatives when its window has closed.

    How much a user watches and how much a film appeals does not change, and a window holds 60 requests.
    """
    rng = np.random.default_rng(seed)
    taste = rng.normal(0, 1.0, users)
    appeal = rng.normal(0, 0.6, _FILMS)
    model = ModelConfig(
        kind=kind, dim=0 if kind == "logistic" else 8, hidden=(16,), dense_learning_rate=dense_learning_rate
    )
    config = TrainerConfig(batch_size=64, quality_rows=1_000_000, quality_stretch_ms=WINDOW_MS)
    trainer = OnlineTrainer(SPEC, model, TableConfig(initial_capacity=4096), config)
    trained: list[tuple[Float32s, UInt8s, Int64s]] = []
    step = trainer.learner.step

    def watched_step(batch, *arguments):  # type: ignore[no-untyped-def]
        result = step(batch, *arguments)
        trained.append((result.logits[:, 0].copy(), batch.labels[:, 0], batch.feature_time_ms))
        return result

    trainer.learner.step = watched_step  # type: ignore[method-assign]
    due: list[tuple[int, int, ExampleBlock]] = []
    served: list[tuple[Float32s, Bools, Int64s]] = []
    offset = 0

    def learn(now_ms: int) -> None:
        nonlocal offset
        while due and due[0][0] <= now_ms:
            trainer.offer(0, offset, heapq.heappop(due)[2], now_ms)
            offset += 1
        trainer.train(now_ms, more=True)

    for number in range(requests):
        now_ms = 1_000_000_000 + number * _GAP_MS
        learn(now_ms)
        user, shown = int(rng.integers(users)), rng.choice(_FILMS, _CANDIDATES, replace=False)
        fids = np.stack([np.full(_CANDIDATES, make_fids(1, np.array([user]))[0]), make_fids(16, shown)], 1)
        logits = _serve(trainer, fids)
        positive = rng.random(_CANDIDATES) < 1 / (1 + np.exp(2.5 - taste[user] - appeal[shown]))
        served.append((logits, positive, np.full(_CANDIDATES, now_ms)))
        for rows, delay in ((positive, int(rng.integers(2_000, 20_000))), (~positive, WINDOW_MS)):
            if rows.any():
                block = _block(
                    number, fids[rows], logits[rows], now_ms, now_ms + delay if rows is positive else NO_TIME_MS
                )
                heapq.heappush(due, (now_ms + delay, 2 * number + (rows is positive), block))
    learn(1 << 60)
    return Run(
        Judged(*(np.concatenate(column) for column in zip(*served, strict=True))),
        Judged(*(np.concatenate(column) for column in zip(*trained, strict=True))),
        trainer,
    )


def _serve(trainer: OnlineTrainer, fids: Int64s) -> Float32s:
    table, model = trainer.table, trainer.learner.model
    rows = table.values(fids.reshape(-1)).reshape(len(fids), 2, -1)
    model.eval()
    with torch.inference_mode():
        logits: Float32s = model(torch.from_numpy(rows), torch.zeros(len(fids), 0)).numpy()[:, 0].copy()
    model.train()
    return logits


def _block(number: int, fids: Int64s, logits: Float32s, time_ms: int, action_ms: int) -> ExampleBlock:
    n, positive = len(fids), action_ms != NO_TIME_MS
    return ExampleBlock(
        spec_hash=SPEC.hash,
        bucket=0,
        impression_ids=np.arange(n),
        **split_rows(SPEC, [f"r{number}"], np.zeros(n, np.int32), fids.reshape(-1), None),
        dense=np.empty(0, np.float32),
        labels=np.full(n, positive, np.uint8),
        mask=np.ones(n, np.uint8),
        sampling_rate=np.ones(n, np.float32),
        label_kind=np.full(n, LabelKind.POSITIVE if positive else LabelKind.NEGATIVE, np.uint8),
        feature_time_ms=np.full(n, time_ms),
        action_time_ms=np.full(n, action_ms),
        feature_ingest_ms=np.full(n, time_ms),
        action_ingest_ms=np.full(n, action_ms),
        served_logits=logits,
    )

"""Crosses from end to end: what a request is scored by is what its rows are trained on, through the joiner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rillet.embeddings import TableConfig
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import Cross, FeatureEvent, FeatureSpec, Slot, Task
from rillet.serving.features import ScoreRequest
from rillet.serving.predictor import Predictor
from rillet.trainer import BatchAssembler, ModelConfig
from rillet.trainer.learner import Learner

_REQUESTS = 40


def _spec(rng: np.random.Generator) -> FeatureSpec:
    """Five slots, of which up to four are the context's, of one to three values, and four crosses of any two."""
    slots = tuple(Slot(f"s{n}", n + 1, "id", int(rng.integers(1, 4))) for n in range(5))
    pairs = [rng.choice(5, 2, replace=False) for _ in range(4)]
    crosses = tuple(
        Cross(f"c{n}", 100 + n, (f"s{a}", f"s{b}"), int(rng.integers(1, 10))) for n, (a, b) in enumerate(pairs)
    )
    split = int(rng.integers(0, 5))
    task = Task("click", "click", 1_000, labels="immediate")
    return FeatureSpec("any", slots[:split], slots[split:], (), (task,), crosses=crosses)


def _event(rng: np.random.Generator, spec: FeatureSpec, number: int) -> FeatureEvent:
    def column(slot: Slot, rows: int) -> list[object]:
        if slot.max_values == 1:
            return list(rng.integers(0, 5, rows))
        return [list(rng.integers(0, 5, rng.integers(0, slot.max_values + 1))) for _ in range(rows)]

    rows = int(rng.integers(1, 5))
    context, context_lengths = spec.encode_side("context", {slot.name: column(slot, 1) for slot in spec.context})
    items, item_lengths = spec.encode_side("item", {slot.name: column(slot, rows) for slot in spec.item})
    ids = np.arange(rows, dtype=np.int64) + 10 * number
    return FeatureEvent(f"r{number}", 1_000_000 + number, spec.hash, context, ids, items, context_lengths, item_lengths)


def test_trainer_and_predictor_give_a_row_the_same_logits(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = _spec(rng)
    events = [_event(rng, spec, number) for number in range(_REQUESTS)]
    join = SimulatedJoin(spec, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=tmp_path / "joiner")
    for event in events:
        join.take(event)
    join.finish()
    blocks = [block for _, block in join.visible(2_000_000)]
    join.close()
    assembler = BatchAssembler(spec)
    for offset, block in enumerate(blocks):
        assembler.add(0, offset, block, 0)
    batch = assembler.take(sum(map(len, blocks)))
    assert batch is not None
    learner = Learner(spec, ModelConfig(dim=4, hidden=(8,)), TableConfig(init_scale=1.0))
    learner.table.find_or_insert(batch.fids, 0)

    def network(embeddings: np.ndarray, dense: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = learner.model(torch.from_numpy(embeddings), torch.from_numpy(dense)).numpy()
        return logits

    predictor = Predictor(spec)
    scored = predictor.score(learner.table, network, [ScoreRequest.of_event(event) for event in events])
    assert predictor.unknown_fids == 0, "training has seen every fid, pairs included"
    served = dict(
        zip(np.concatenate([e.impression_ids for e in events]).tolist(), np.concatenate(scored).tolist(), strict=True)
    )
    trained = learner.step(batch, 0, 0).logits
    impressions = np.concatenate([block.impression_ids for block in blocks]).tolist()
    assert len(trained) == len(served), "immediate: a row for every impression"
    np.testing.assert_allclose(trained, [served[one] for one in impressions], rtol=1e-5, atol=1e-6)
    assert np.std(trained) > 0.01

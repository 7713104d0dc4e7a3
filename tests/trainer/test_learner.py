"""One step: how far a gradient may move a model, and that within its bounds nothing is touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.trainer import BatchAssembler, ModelConfig, dense_state
from rillet.trainer.batch import Batch
from rillet.trainer.learner import Learner
from tests.trainer.blocks import RAGGED, make_block

MODEL = ModelConfig(dim=4, hidden=(8,))
UNCLIPPED = replace(MODEL, max_row_gradient=np.inf, max_dense_gradient=np.inf)
TABLE = TableConfig(initial_capacity=64)


def make_batch(seed: int, rows: int = 64) -> Batch:
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 0, make_block(np.random.default_rng(seed), rows), 0)
    batch = assembler.take(rows)
    assert batch is not None
    return batch


def learned(model: ModelConfig, batches: list[Batch]) -> tuple[Learner, list[tuple[int, bool]]]:
    learner = Learner(RAGGED, model, TABLE)
    results = [learner.step(batch, 0, 0) for batch in batches]
    assert not any(result.refused for result in results)
    return learner, [(result.clipped_rows, result.clipped_dense) for result in results]


def test_within_the_bounds_a_step_is_bit_for_bit_one_without_them() -> None:
    batches = [make_batch(seed) for seed in range(10)]
    bounded, clipped = learned(MODEL, batches)
    free, _ = learned(UNCLIPPED, batches)
    assert set(clipped) == {(0, False)}
    np.testing.assert_array_equal(bounded.table.items()[1], free.table.items()[1])
    for name, array in dense_state(bounded.model).items():
        np.testing.assert_array_equal(array, dense_state(free.model)[name])


def test_only_the_examples_beyond_the_bound_are_scaled_down_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[np.ndarray] = []

    def keep(rows: np.ndarray, lengths: np.ndarray, grad: np.ndarray, now_ms: int, **_: float) -> int:
        applied.append(grad.reshape(64, -1).copy())
        return 0

    def clipped_rows(model: ModelConfig) -> int:
        learner = Learner(RAGGED, model, TABLE)
        monkeypatch.setattr(learner.table, "apply_gradients", keep)
        return learner.step(make_batch(0), 0, 0).clipped_rows

    assert clipped_rows(UNCLIPPED) == 0
    norms = np.linalg.norm(applied[0], axis=1)
    limit = float(np.median(norms))
    over = norms > limit
    assert clipped_rows(replace(UNCLIPPED, max_row_gradient=limit)) == np.count_nonzero(over) == 32
    np.testing.assert_array_equal(applied[1][~over], applied[0][~over])
    np.testing.assert_allclose(applied[1][over], applied[0][over] * (limit / norms[over])[:, None], rtol=1e-5)


def test_the_dense_gradient_is_bounded_in_all_whatever_the_batch_size() -> None:
    norms = []
    for rows in (16, 256):
        learner = Learner(RAGGED, replace(MODEL, max_dense_gradient=1e-3), TABLE)
        assert learner.step(make_batch(0, rows), 0, 0).clipped_dense
        squares = [float(parameter.grad.square().sum()) for parameter in learner.model.parameters()]
        norms.append(np.sqrt(sum(squares)) / rows)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-4)


def test_gradients_whose_sum_for_an_embedding_row_overflows_refuse_the_batch_and_change_nothing() -> None:
    learner = Learner(RAGGED, UNCLIPPED, TABLE)
    batch = make_batch(0, 6)
    # The same fid everywhere, and only positives: squares are finite example by example, that of their sum is not.
    batch = replace(batch, fids=np.full_like(batch.fids, batch.fids[0]), labels=batch.mask)
    with torch.no_grad():
        learner.model.get_parameter("model.linear.scale").fill_(2.5e18 / 1024)
    before = dense_state(learner.model)
    for row in range(6):
        alone = Learner(RAGGED, UNCLIPPED, TABLE)
        alone.model.load_state_dict(learner.model.state_dict())
        assert not alone.step(batch.select(np.arange(6) == row), 0, 0).refused
    assert learner.step(batch, 0, 0).refused
    assert len(learner.table) == 0
    assert len(learner.table.touched) == 0
    for name, array in dense_state(learner.model).items():
        np.testing.assert_array_equal(array, before[name])

"""Dense values far out of their feature's range are replaced, and a feature that changes is followed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import ExampleBlock
from rillet.trainer import CheckpointStore, ModelConfig, OnlineTrainer, TrainerConfig, dense_state
from rillet.trainer.batch import BatchAssembler
from rillet.trainer.dense_ranges import WINDOW_ROWS, DenseRanges
from rillet.trainer.quality import auc
from tests.trainer.blocks import RAGGED, make_block


def column(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


def uniform(rng: np.random.Generator, rows: int, scale: float = 1.0) -> np.ndarray:
    return column(scale * rng.random(rows))


@pytest.mark.parametrize("absurd", [1e3, -1e5, 9e6])
def test_absurd_values_become_the_median_from_the_first_rows_on(absurd: float) -> None:
    rng = np.random.default_rng(0)
    ranges = DenseRanges(1, 100.0)
    for _ in range(50):
        dense = uniform(rng, 32)
        dense[rng.integers(32)] = absurd
        found, counts = ranges.replace(dense)
        assert counts.tolist() == [1]
        assert 0 <= found.min() <= found.max() <= 1
        assert np.count_nonzero(found != dense) == 1


def test_what_is_in_range_is_the_same_array() -> None:
    dense = uniform(np.random.default_rng(0), 100)
    assert DenseRanges(1, 100.0).replace(dense)[0] is dense


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_change_of_unit_is_followed_within_a_few_batches(factor: float) -> None:
    rng = np.random.default_rng(0)
    ranges = DenseRanges(1, 100.0)
    for _ in range(100):
        ranges.replace(uniform(rng, 64))
    replaced = [int(ranges.replace(uniform(rng, 64, factor))[1][0]) for _ in range(40)]
    assert sum(replaced) <= 3 * 64
    assert not any(replaced[3:])


def test_a_feature_that_is_rarely_not_zero_keeps_its_rare_values() -> None:
    rng = np.random.default_rng(0)
    ranges = DenseRanges(1, 100.0)
    for _ in range(50):
        dense = column(np.where(rng.random(64) < 0.02, 5000.0, 0.0))
        assert ranges.replace(dense)[0] is dense


def test_a_long_tail_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    ranges = DenseRanges(1, 100.0)
    counts = [int(ranges.replace(column(rng.lognormal(0, 1.0, 512)))[1][0]) for _ in range(100)]
    assert sum(counts) == 0


def test_values_that_grow_with_time_are_followed() -> None:
    ranges = DenseRanges(1, 100.0)
    for batch in range(200):
        dense = column(1_700_000_000 + 128 * (128 * batch + np.arange(128)))
        assert ranges.replace(dense)[0] is dense


def test_it_goes_on_from_its_state() -> None:
    rng = np.random.default_rng(0)
    first, second = DenseRanges(1, 100.0), DenseRanges(1, 100.0)
    first.replace(uniform(rng, WINDOW_ROWS + 5))
    second.load_state({name: array.copy() for name, array in first.state().items()})
    for _ in range(20):
        dense = uniform(rng, 300)
        dense[7] = 1e4
        np.testing.assert_array_equal(first.replace(dense)[0], second.replace(dense)[0])


def _block(rng: np.random.Generator, absurd: float) -> ExampleBlock:
    """Positive by the dense feature alone; a hundredth of the rows have an absurd one."""
    block = make_block(rng, 512)
    positive = rng.random(512) < np.where(block.dense > 0.5, 0.8, 0.1)
    labels = (block.mask.reshape(512, 2) * positive[:, None]).astype(np.uint8).reshape(-1)
    wrong, sign = rng.random(512) < 0.01, np.sign(rng.normal(size=512))
    dense = np.where(wrong & (absurd != 0), absurd * sign, block.dense).astype(np.float32)
    return replace(
        block,
        labels=labels,
        dense=dense,
        label_kind=np.where(positive, 0, 1).astype(np.uint8),
        sampling_rate=np.ones(512, np.float32),
        action_time_ms=np.where(positive, block.feature_time_ms + 10, -1),
    )


def _auc(kind: str, absurd: float) -> tuple[float, OnlineTrainer]:
    trainer = OnlineTrainer(
        RAGGED, ModelConfig(kind=kind, dim=4, hidden=(16,)), TableConfig(), TrainerConfig(batch_size=64)
    )
    rng = np.random.default_rng(0)
    for offset in range(100):
        trainer.offer(0, offset, _block(rng, absurd), 0)
        trainer.train(0, more=True)
    rng = np.random.default_rng(9)
    assembler = BatchAssembler(RAGGED)
    for offset in range(20):
        assembler.add(0, offset, _block(rng, 0.0), 0)
    batch = assembler.take(20 * 512)
    assert batch is not None
    pooled = trainer.table.gather_pooled(trainer.table.find(batch.fids), batch.lengths)
    with torch.inference_mode():
        embeddings = torch.from_numpy(pooled.reshape(len(batch), RAGGED.segments, -1))
        logits = trainer.learner.model(embeddings, torch.from_numpy(batch.dense)).numpy()
    labelled = batch.mask[:, 0] == 1
    return auc(logits[labelled, 0], batch.labels[labelled, 0] == 1).value, trainer


@pytest.mark.simulation
@pytest.mark.parametrize("kind", ["deepfm", "logistic"])
def test_one_absurd_value_in_a_hundred_does_not_cost_the_others_the_feature(kind: str) -> None:
    clean, _ = _auc(kind, 0.0)
    for absurd in (1e3, 1e5, 9e6):
        mixed, trainer = _auc(kind, absurd)
        assert mixed > clean - 0.002
        assert trainer.counters.replaced_dense["hour"] > 400
        assert trainer.counters.rows > 100 * 512 - 64


def test_killed_and_restored_it_replaces_the_same_values(tmp_path: Path) -> None:
    config = TrainerConfig(batch_size=64)
    store = CheckpointStore(str(tmp_path), keep=1)
    whole, killed, restored = (
        OnlineTrainer(RAGGED, ModelConfig(dim=4, hidden=(8,)), TableConfig(), config) for _ in range(3)
    )
    blocks = [_block(np.random.default_rng(offset), 1e4) for offset in range(6)]
    for trainer, part in ((whole, range(6)), (killed, range(3))):
        for offset in part:
            trainer.offer(0, offset, blocks[offset], 0)
            trainer.train(0, more=True)
    killed.save(store)
    restored.restore(store, _refuse)
    for offset in range(restored.positions[0][0], 6):
        restored.offer(0, offset, blocks[offset], 0)
        restored.train(0, more=True)
    assert restored.counters == whole.counters
    for name, array in dense_state(restored.learner.model).items():
        np.testing.assert_array_equal(array, dense_state(whole.learner.model)[name])


def _refuse(error: Exception) -> None:
    raise error

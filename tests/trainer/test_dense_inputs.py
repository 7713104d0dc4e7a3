"""Raw dense features are transformed and standardised by the model itself, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import DenseFeature, ExampleBlock, FeatureSpec
from rillet.trainer import (
    CheckpointError,
    CheckpointStore,
    ModelConfig,
    OnlineTrainer,
    TrainerConfig,
    build_model,
    dense_state,
)
from rillet.trainer.batch import BatchAssembler
from rillet.trainer.dense_inputs import LIMIT, SAMPLE_ROWS, DenseInput, DenseStatistics
from rillet.trainer.quality import auc
from tests.trainer.blocks import RAGGED, make_block

MODEL = ModelConfig(dim=4, hidden=(8,))
HOUR_MS = 3_600_000


def learned(columns: np.ndarray, *features: DenseFeature, rows: int = 64) -> DenseInput:
    """The statistics of float32[n, Dd], given in batches."""
    module = DenseInput(features)
    statistics = DenseStatistics(module)
    for first in range(0, len(columns), rows):
        statistics.update(columns[first : first + rows].astype(np.float32), 0)
    return module


def given(module: DenseInput, values: object) -> np.ndarray:
    """What a model gets for values of its only feature."""
    found: np.ndarray = module(torch.tensor(values, dtype=torch.float32)[:, None])[:, 0].numpy()
    return found


def prices(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Log-uniform from 10 to 5,000: float64[rows, 1]."""
    return np.exp(rng.uniform(np.log(10), np.log(5_000), (rows, 1)))


def test_raw_values_come_out_with_mean_0_and_deviation_1() -> None:
    raw = prices(np.random.default_rng(0), 1_000)
    columns = np.concatenate([raw, raw, 1.7e9 + 1e5 * raw], axis=1)
    module = learned(columns, DenseFeature("price"), DenseFeature("log_price", "log1p"), DenseFeature("time"))
    found = module(torch.from_numpy(columns.astype(np.float32))).numpy().astype(np.float64)
    assert found.mean(axis=0) == pytest.approx(0, abs=0.02)
    assert found.std(axis=0) == pytest.approx(1, abs=0.02)
    by_hand = np.log1p(raw[:, 0])
    np.testing.assert_allclose(found[:, 1], (by_hand - by_hand.mean()) / by_hand.std(), atol=0.02)


def test_log1p_keeps_the_sign() -> None:
    module = DenseInput([DenseFeature("balance", "log1p")])
    found = module.transformed(torch.tensor([[-np.e + 1], [0.0], [np.e - 1]], dtype=torch.float32))
    np.testing.assert_allclose(found[:, 0].numpy(), [-1, 0, 1], atol=1e-6)


def test_before_the_first_row_a_raw_price_says_nothing() -> None:
    spec = replace(RAGGED, dense=(DenseFeature("price"),))
    model = build_model(MODEL, spec)
    scores = model(torch.zeros(3, spec.segments, MODEL.row_dim), torch.tensor([[0.0], [10.0], [5_000.0]]))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e7, 1e-20])
def test_a_constant_feature_is_0(value: float) -> None:
    module = learned(np.full((1_000, 1), value), DenseFeature("price"))
    assert given(module, [value]).tolist() == [0.0]


@pytest.mark.parametrize("absurd", [1e6, -1e9, 3e38])
def test_an_absurd_value_at_serving_is_bounded(absurd: float) -> None:
    module = learned(prices(np.random.default_rng(0), 1_000), DenseFeature("price"))
    assert abs(given(module, [absurd])[0]) == LIMIT


def test_a_feature_that_begins_to_vary_is_bounded_at_once() -> None:
    columns = np.concatenate([np.zeros((SAMPLE_ROWS - 1, 1)), np.ones((1, 1))])
    module = learned(columns, DenseFeature("flag"))
    assert given(module, [0.0, 1.0]) == pytest.approx([0, LIMIT], abs=0.1)


@pytest.mark.parametrize("at", [0, 31, 5_000])
def test_absurd_rows_do_not_cost_the_others_the_feature(at: int) -> None:
    raw = prices(np.random.default_rng(0), 10_000)
    expected = learned(raw, DenseFeature("price"))
    raw[at : at + 3] = 1e30
    found = learned(raw, DenseFeature("price"))
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0.1, atol=0)


def test_nothing_is_said_of_a_feature_before_some_rows_have_come() -> None:
    assert not learned(prices(np.random.default_rng(0), 31), DenseFeature("price")).scale.any()


def test_a_change_is_followed_over_days_and_not_within_hours() -> None:
    rng = np.random.default_rng(0)
    module = DenseInput([DenseFeature("hour")])
    statistics = DenseStatistics(module)
    for hour in range(24 * 40):
        values = rng.normal(hour % 24, 0.1, (64, 1)) + (1_000 if hour >= 24 * 20 else 0)
        statistics.update(values.astype(np.float32), hour * HOUR_MS)
        if hour == 24 * 20 - 1:
            # The rows of an hour have one hour of the day: it is still to be told from the others.
            assert given(module, [0.0, 12.0, 23.0]) == pytest.approx([-1.7, 0.0, 1.6], abs=0.2)
    assert given(module, [1_000.0, 1_012.0, 1_023.0]) == pytest.approx([-1.7, 0.0, 1.6], abs=0.2)


def offered(trainer: OnlineTrainer, blocks: list[ExampleBlock], offsets: range) -> None:
    for offset in offsets:
        trainer.offer(0, offset, blocks[offset], 0)
        trainer.train(0, more=True)


def priced_trainer(*dense: DenseFeature) -> OnlineTrainer:
    return OnlineTrainer(replace(RAGGED, dense=dense), MODEL, TableConfig(), TrainerConfig(batch_size=64))


def test_killed_and_restored_it_standardises_the_same_to_the_bit(tmp_path: Path) -> None:
    price = DenseFeature("hour", "log1p")
    blocks = [make_block(np.random.default_rng(offset), 100) for offset in range(6)]
    blocks = [replace(block, dense=block.dense * np.float32(5_000)) for block in blocks]
    store = CheckpointStore(str(tmp_path), keep=1)
    whole, killed, restored = (priced_trainer(price) for _ in range(3))
    offered(whole, blocks, range(6))
    offered(killed, blocks, range(3))
    killed.save(store)
    restored.restore(store, _raise)
    offered(restored, blocks, range(restored.positions[0][0], 6))
    expected = dense_state(whole.learner.model)
    assert expected["dense.scale"] > 0
    for name, array in dense_state(restored.learner.model).items():
        np.testing.assert_array_equal(array, expected[name])
    assert whole.learner.optimizer_state().keys() == restored.learner.optimizer_state().keys()


def test_a_checkpoint_of_another_transform_is_refused_by_name(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    priced_trainer(DenseFeature("hour")).save(store)
    with pytest.raises(CheckpointError, match=r"transforms is \{'hour': 'none'\}.*\{'hour': 'log1p'\}"):
        priced_trainer(DenseFeature("hour", "log1p")).restore(store, _raise)


def test_a_refused_batch_has_no_say() -> None:
    trainer = priced_trainer(DenseFeature("hour"))
    blocks = [make_block(np.random.default_rng(offset), 64) for offset in range(2)]
    offered(trainer, blocks[:1], range(1))
    before = dense_state(trainer.learner.model)
    assembler = BatchAssembler(trainer.spec)
    assembler.add(0, 1, replace(blocks[1], dense=np.full(64, np.nan, np.float32)), 0)
    batch = assembler.take(64)
    assert batch is not None
    assert trainer.learner.step(batch, 0, 0).refused
    for name, array in dense_state(trainer.learner.model).items():
        np.testing.assert_array_equal(array, before[name])


def judged(spec: FeatureSpec, price_of: Callable[[np.ndarray], np.ndarray]) -> float:
    """AUC of a model of rows whose labels depend on the logarithm of a price, from 10 to 5,000."""
    trainer = OnlineTrainer(spec, ModelConfig(dim=4, hidden=(16,)), TableConfig(), TrainerConfig(batch_size=128))

    def block(seed: int) -> ExampleBlock:
        rng = np.random.default_rng(seed)
        made, raw = make_block(rng, 512, spec), prices(rng, 512)[:, 0]
        positive = rng.random(512) < 1 / (1 + np.exp(1.2 * (np.log(raw) - 5.4) + 0.5))
        return replace(
            made,
            dense=price_of(raw).astype(np.float32),
            labels=(made.mask.reshape(512, 2) * positive[:, None]).astype(np.uint8).reshape(-1),
            label_kind=np.where(positive, 0, 1).astype(np.uint8),
            sampling_rate=np.ones(512, np.float32),
            action_time_ms=np.where(positive, made.feature_time_ms + 10, -1),
        )

    offered(trainer, [block(seed) for seed in range(60)], range(60))
    assembler = BatchAssembler(spec)
    for offset in range(20):
        assembler.add(0, offset, block(1_000 + offset), 0)
    batch = assembler.take(20 * 512)
    assert batch is not None
    pooled = trainer.table.gather_pooled(trainer.table.find(batch.fids), batch.lengths)
    with torch.inference_mode():
        embeddings = torch.from_numpy(pooled.reshape(len(batch), spec.segments, -1))
        logits = trainer.learner.model.eval()(embeddings, torch.from_numpy(batch.dense)).numpy()
    of_task = batch.mask[:, 0] == 1
    return auc(logits[of_task, 0], batch.labels[of_task, 0] == 1).value


@pytest.mark.simulation
def test_a_raw_price_is_learned_as_well_as_its_logarithm_standardised_by_hand() -> None:
    by_hand = judged(RAGGED, lambda price: (np.log(price) - 5.41) / 1.79)
    assert judged(replace(RAGGED, dense=(DenseFeature("price", "log1p"),)), np.asarray) == pytest.approx(
        by_hand, abs=0.005
    )
    # The network itself has to find the logarithm then.
    assert judged(replace(RAGGED, dense=(DenseFeature("price"),)), np.asarray) == pytest.approx(by_hand, abs=0.01)


def _raise(error: Exception) -> None:
    raise error

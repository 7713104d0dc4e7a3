"""Absurd rows: each is refused on its own, named, and its batch is learned from without it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.embeddings import TableConfig
from rillet.schemas import ExampleBlock, decode_as, dump_spec, parse_spec
from rillet.trainer import BadRecord, CheckpointStore, ModelConfig, OnlineTrainer, TrainerConfig, dense_state
from rillet.trainer.online import REFUSED_BATCHES_LIMIT
from tests.trainer.blocks import RAGGED, make_block

MODEL = ModelConfig(dim=4, hidden=(8,))
CONFIG = TrainerConfig(batch_size=64, first_batch_size=64)
#: no bounds but finiteness: what a step cannot learn from is found by trying
UNSCREENED = replace(CONFIG, max_dense=np.inf, max_dense_spreads=np.inf)
ROWS = 50
#: so far from the others that a model gets its bound for it
FAR = 1e6
#: of 50 rows each, more batches of 64 than may be refused in a row
RECORDS = 26


def make_trainer(config: TrainerConfig = CONFIG, model: ModelConfig = MODEL) -> OnlineTrainer:
    return OnlineTrainer(RAGGED, model, TableConfig(initial_capacity=64), config)


def spoilt(block: ExampleBlock, row: int, dense: float = 3e38) -> ExampleBlock:
    """The block with one absurd value; the spec has one dense feature."""
    values = block.dense.copy()
    values[row] = dense
    return replace(block, dense=values)


def sound_blocks(count: int) -> list[ExampleBlock]:
    rng = np.random.default_rng(0)
    return [make_block(rng, ROWS) for _ in range(count)]


def train(trainer: OnlineTrainer, blocks: list[ExampleBlock], start: int = 0) -> list[BadRecord]:
    refused: list[BadRecord] = []
    for offset in range(start, len(blocks)):
        trainer.offer(3, offset, blocks[offset], 0)
        trainer.train(0, more=True, on_refused=refused.append)
    trainer.train(0, more=False, flush=True, on_refused=refused.append)
    return refused


def places(refused: list[BadRecord]) -> list[tuple[int, int, int | None]]:
    return [(bad.record.partition, bad.record.offset, bad.row) for bad in refused]


@pytest.mark.parametrize("config", [CONFIG, UNSCREENED], ids=["screened", "unscreened"])
@pytest.mark.parametrize("kind", ["deepfm", "logistic"])
@pytest.mark.parametrize("absurd", [3e38, -1e30, np.inf, np.nan])
def test_one_absurd_row_in_every_batch_costs_that_row_alone(config: TrainerConfig, kind: str, absurd: float) -> None:
    blocks = [spoilt(block, offset % ROWS, absurd) for offset, block in enumerate(sound_blocks(RECORDS))]
    trainer = make_trainer(config, replace(MODEL, kind=kind))
    refused = places(train(trainer, blocks))
    absurd_rows = [(3, offset, offset % ROWS) for offset in range(RECORDS)]
    assert trainer.counters.batches == -(-RECORDS * ROWS // 64) > REFUSED_BATCHES_LIMIT
    assert trainer.counters.rows == RECORDS * ROWS - len(refused)
    assert trainer.positions == {3: (RECORDS, 0)}
    # The model bounds what is finite, so that it can be learned from even where it is not refused.
    assert refused == (absurd_rows if config is CONFIG or not np.isfinite(absurd) else [])
    assert all(np.isfinite(array).all() for array in dense_state(trainer.learner.model).values())


def test_screened_rows_leave_what_is_learned_as_if_they_had_never_been_there() -> None:
    blocks = sound_blocks(8)
    # Rows are cut into batches before they are screened, so that positions count every row of a record.
    config = replace(CONFIG, batch_size=ROWS, first_batch_size=ROWS)
    without, beside = make_trainer(config), make_trainer(config)
    cut = [replace(block, **_without_row_0(block)) for block in blocks]
    for offset, block in enumerate(cut):
        without.offer(3, offset, block, 0)
        without.train(0, more=False, flush=True)
    train(beside, [spoilt(block, 0) for block in blocks])
    for name, array in dense_state(beside.learner.model).items():
        np.testing.assert_array_equal(array, dense_state(without.learner.model)[name])
    np.testing.assert_array_equal(beside.table.items()[1], without.table.items()[1])


def test_absurd_rows_alone_do_not_stop_training_however_long_they_last() -> None:
    blocks = sound_blocks(REFUSED_BATCHES_LIMIT + 2)
    flood = [replace(block, dense=np.full_like(block.dense, 3e38)) for block in blocks]
    trainer = make_trainer(replace(CONFIG, batch_size=ROWS, first_batch_size=ROWS))
    refused = train(trainer, [*flood, *sound_blocks(2)])
    assert len(refused) == len(flood) * ROWS
    assert trainer.counters.refused_rows == {"dense": len(flood) * ROWS, "unlearnable": 0}
    assert trainer.counters.rows == 2 * ROWS


def test_a_refused_row_is_named_with_field_and_value_and_can_be_mended_and_sent_again() -> None:
    block = sound_blocks(1)[0]
    (bad,) = train(make_trainer(), [block, spoilt(block, 17)])
    assert str(bad.error) == "row 17: dense hour is 3e+38, further from 0 than max_dense 1e+15"
    assert bad.record.key == b"0"
    alone = decode_as(ExampleBlock, bad.record.value)
    RAGGED.check_block(alone)
    assert alone.impression_ids.tolist() == [block.impression_ids[17]]
    assert alone.request_ids == ["r"]
    again = make_trainer()
    assert train(again, [replace(alone, dense=block.dense[17:18])]) == []
    assert again.counters.rows == 1


def test_a_row_with_two_faults_is_refused_once() -> None:
    spec = parse_spec(dump_spec(RAGGED).replace('name = "hour"', 'name = "hour"\n\n[[dense]]\nname = "price"'))
    block = make_block(np.random.default_rng(0), 5, spec)
    block.dense[2:6] = np.nan
    trainer = OnlineTrainer(spec, MODEL, TableConfig(initial_capacity=64), CONFIG)
    refused = train(trainer, [block])
    assert places(refused) == [(3, 0, 1), (3, 0, 2)]
    assert "row 1: dense hour is nan" in str(refused[0].error)
    assert trainer.counters.refused_rows == {"dense": 2, "unlearnable": 0}


@pytest.mark.parametrize("config", [CONFIG, UNSCREENED], ids=["screened", "found by the step"])
@pytest.mark.parametrize("saved_at", [0, 4, 7])
def test_killed_and_restored_it_refuses_no_row_before_its_position_again(
    tmp_path: Path, config: TrainerConfig, saved_at: int
) -> None:
    blocks = [spoilt(block, 7 * offset % ROWS) for offset, block in enumerate(sound_blocks(9))]
    store = CheckpointStore(str(tmp_path), keep=2)
    whole, killed = make_trainer(config), make_trainer(config)
    expected = train(whole, blocks)
    before: list[BadRecord] = []
    for offset in range(saved_at + 1):
        killed.offer(3, offset, blocks[offset], 0)
        killed.train(0, more=True, on_refused=before.append)
    killed.save(store)
    restored = make_trainer(config)
    restored.restore(store, _refuse)
    after = train(restored, blocks, start=restored.positions.get(3, (0, 0))[0])
    assert Counter(places([*before, *after])) == Counter(places(expected))
    assert restored.counters == whole.counters
    for name, array in dense_state(restored.learner.model).items():
        np.testing.assert_array_equal(array, dense_state(whole.learner.model)[name])


def test_a_position_counts_the_rows_of_a_record_whatever_the_bounds_are_now(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    blocks = sound_blocks(2)
    first = make_trainer()
    first.offer(3, 0, spoilt(spoilt(blocks[0], 1), 2), 0)
    first.offer(3, 1, spoilt(blocks[1], 40), 0)
    first.train(0, more=True)
    assert first.positions == {3: (1, 14)}
    first.save(store)
    # Narrower bounds refuse rows of the record that were trained on before; none of them is looked at again.
    second = make_trainer(replace(CONFIG, max_dense=1e-9))
    second.restore(store, _refuse)
    assert places(train(second, blocks, start=1)) == [(3, 1, row) for row in range(14, ROWS)]


def own_model(name: str) -> ModelConfig:
    return replace(MODEL, kind=f"tests.trainer.own_models:{name}")


def test_what_a_batch_cannot_learn_together_it_learns_in_parts() -> None:
    trainer = make_trainer(CONFIG, replace(own_model("SteepBias"), dense_learning_rate=1e-30))
    assert train(trainer, sound_blocks(1)) == []
    assert trainer.counters.rows == ROWS
    assert trainer.counters.split_batches > 0


@pytest.mark.parametrize("name", ["LogToBound", "NormalisedLogToBound"])
def test_rows_that_a_model_cannot_learn_from_are_found_together_and_the_rest_makes_one_step(name: str) -> None:
    far = (3, 17, 40)
    blocks = sound_blocks(6)
    for block in blocks[1:]:
        block.dense[list(far)] = FAR
    trainer = make_trainer(replace(UNSCREENED, batch_size=ROWS, first_batch_size=ROWS), own_model(name))
    refused = train(trainer, blocks)
    assert places(refused) == [(3, offset, row) for offset in range(1, 6) for row in far]
    assert trainer.counters.rows == 6 * ROWS - len(refused)
    assert trainer.counters.split_batches == 0
    state = trainer.learner.optimizer.state()
    assert state["model.network.weight.step"] == 6


def test_data_that_a_model_cannot_learn_from_does_not_stop_training_however_long_it_lasts(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    config = replace(UNSCREENED, batch_size=ROWS, first_batch_size=ROWS)
    flood = [replace(block, dense=np.full_like(block.dense, FAR)) for block in sound_blocks(REFUSED_BATCHES_LIMIT + 2)]
    blocks = [*sound_blocks(1), *flood, *sound_blocks(2)]
    first = make_trainer(config, own_model("LogToBound"))
    train(first, blocks[:1])
    first.save(store)
    # Also by a trainer that has seen no other rows since it was restored.
    restored = make_trainer(config, own_model("LogToBound"))
    restored.restore(store, _refuse)
    for trainer in (first, restored):
        refused = train(trainer, blocks, start=1)
        assert len(refused) == len(flood) * ROWS
        assert trainer.counters.rows == 3 * ROWS


@pytest.mark.parametrize("name", ["LogToBound", "NormalisedLogToBound"])
def test_rows_that_are_refused_leave_nothing_in_the_embedding_table(name: str) -> None:
    trainer = make_trainer(UNSCREENED, own_model(name))
    train(trainer, sound_blocks(3))
    trainer.table.touched.take()
    trainer.table.touched.acknowledge()
    before = len(trainer.table)
    strangers = make_block(np.random.default_rng(5), ROWS, users=10**9, items=10**9)
    refused = train(trainer, [*sound_blocks(3), replace(strangers, dense=np.full(ROWS, FAR, np.float32))], start=3)
    assert len(refused) == ROWS
    assert len(trainer.table) == before
    assert len(trainer.table.touched.pending()) == 0


def _without_row_0(block: ExampleBlock) -> dict[str, np.ndarray | None]:
    """The columns of a block without its first row."""
    assert block.item_lengths is not None
    slots, tasks = len(RAGGED.item), len(RAGGED.tasks)
    widths = {"item_lengths": slots, "labels": tasks, "mask": tasks, "served_logits": tasks, "dense": 1}
    first_fids = int(block.item_lengths[:slots].sum())
    per_row = (
        *("request_index", "impression_ids", "sampling_rate", "label_kind"),
        *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms"),
    )
    return {
        "item_fids": block.item_fids[first_fids:],
        **{name: getattr(block, name)[width:] for name, width in widths.items()},
        **{name: getattr(block, name)[1:] for name in per_row},
    }


def _refuse(error: Exception) -> None:
    raise error

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import Cross, ExampleBlock
from rillet.trainer import (
    CheckpointError,
    CheckpointStore,
    CorruptCheckpointError,
    ModelConfig,
    ModelError,
    OnlineTrainer,
    Restored,
    TrainerConfig,
    TrainerError,
    dense_state,
)
from rillet.trainer.online import CHECKPOINT_FORMAT, REFUSED_BATCHES_LIMIT
from tests.trainer.blocks import RAGGED, later, make_block

MODEL = ModelConfig(dim=4, hidden=(8,), dense_learning_rate=0.01)
CONFIG = TrainerConfig(batch_size=16, max_wait_ms=1000, quality_rows=500)
TABLE = TableConfig(initial_capacity=64)


def _trainer(model: ModelConfig = MODEL, table: TableConfig = TABLE, config: TrainerConfig = CONFIG) -> OnlineTrainer:
    return OnlineTrainer(RAGGED, model, table, config)


def _blocks(count: int, seed: int = 0) -> list[ExampleBlock]:
    rng = np.random.default_rng(seed)
    return [make_block(rng, int(rng.integers(0, 40))) for _ in range(count)]


def _refuse(error: CorruptCheckpointError) -> None:
    raise error


def _learned(trainer: OnlineTrainer) -> dict[str, np.ndarray]:
    table = {f"table.{name}": array for name, array in trainer.table.state().items()}
    optimizer = {f"optimizer.{name}": array for name, array in trainer.learner.optimizer_state().items()}
    return {**dense_state(trainer.learner.model), **optimizer, **table}


def _assert_same(left: OnlineTrainer, right: OnlineTrainer) -> None:
    ours, theirs = _learned(left), _learned(right)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert left.counters == right.counters
    assert left.positions == right.positions
    for task in range(len(RAGGED.tasks)):
        assert left.quality.known(task) == right.quality.known(task)
    ours, theirs = left.quality.state(), right.quality.state()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.simulation
@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl", "lazy_adam"])
@pytest.mark.parametrize(("saved_at", "killed_at"), [(0, 3), (5, 5), (7, 11), (12, 19)])
def test_killed_and_restored_learns_bit_for_bit_what_an_unkilled_run_learns(
    tmp_path: Path, optimizer: str, saved_at: int, killed_at: int
) -> None:
    blocks = _blocks(20)
    table = TableConfig(initial_capacity=64, optimizer=optimizer)  # type: ignore[arg-type]
    growing = replace(CONFIG, first_batch_size=2)
    store = CheckpointStore(str(tmp_path), keep=2)
    whole, killed = _trainer(table=table, config=growing), _trainer(table=table, config=growing)
    for offset, block in enumerate(blocks):
        whole.offer(0, offset, block, 0)
        whole.train(0, more=True)
    for offset, block in enumerate(blocks[: killed_at + 1]):
        killed.offer(0, offset, block, 0)
        killed.train(0, more=True)
        if offset == saved_at:
            killed.save(store, {"epoch": saved_at})
    restored = _trainer(table=table, config=growing)
    assert restored.restore(store, _refuse) == Restored(1, {"epoch": saved_at})
    start = restored.positions.get(0, (0, 0))[0]
    for offset in range(start, len(blocks)):
        restored.offer(0, offset, blocks[offset], 0)
        restored.train(0, more=True)
    whole.train(0, more=False, flush=True)
    restored.train(0, more=False, flush=True)
    _assert_same(whole, restored)


def test_the_first_batches_are_small_and_grow_with_the_rows_trained_on() -> None:
    trainer = _trainer(config=replace(CONFIG, first_batch_size=2))
    steps = []
    for offset, block in enumerate([make_block(np.random.default_rng(0), 32) for _ in range(10)]):
        trainer.offer(0, offset, block, 0)
        steps.append(trainer.train(0, more=True))
    assert steps[0] == 16
    assert steps[-1] == 2
    assert steps == sorted(steps, reverse=True)


def test_the_bias_follows_the_first_labels() -> None:
    trainer = _trainer(ModelConfig(dim=4, hidden=(8,)), config=TrainerConfig(batch_size=64))
    block = make_block(np.random.default_rng(0), 64)
    # All rows teach the first task, half of them positives.
    tasks = len(RAGGED.tasks)
    mask = np.tile(np.eye(tasks, dtype=np.uint8)[0], 64)
    labels = mask * np.repeat(np.arange(64) % 2, tasks).astype(np.uint8)
    block = replace(block, mask=mask, labels=labels, sampling_rate=np.full(64, 0.5, np.float32))
    before = dense_state(trainer.learner.model)["bias"]
    assert 1 / (1 + np.exp(-before)) == pytest.approx(MODEL.initial_rate)
    for offset in range(15):
        trainer.offer(0, offset, block, 0)
        trainer.train(0, more=True)
    after = dense_state(trainer.learner.model)["bias"]
    assert after[0] > before[0] + 1.5, "the other weights have learned the rest"
    assert after[1] == before[1], "a task without labels keeps its bias"


def test_rows_touched_and_not_published_survive_a_kill(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=2)
    first = _trainer()
    for offset, block in enumerate(_blocks(3)):
        first.offer(0, offset, block, 0)
    first.train(0, more=False, flush=True)
    expected = np.sort(first.table.touched.pending())
    assert len(expected)
    in_flight = first.table.touched.take()
    assert len(in_flight) == len(expected)
    first.save(store)
    second = _trainer()
    second.restore(store, _refuse)
    np.testing.assert_array_equal(np.sort(second.table.touched.take()), expected)
    np.testing.assert_array_equal(second.take_freshness().action_ingest_ms, first.take_freshness().action_ingest_ms)


def test_learning_lowers_the_training_loss_and_leaves_the_quality_of_what_was_served() -> None:
    trainer = _trainer(config=replace(CONFIG, batch_size=64, first_batch_size=16))
    rng = np.random.default_rng(5)
    losses = []
    for offset in range(40):
        trainer.offer(0, offset, make_block(rng, 64), 0)
        trainer.train(0, more=True)
        losses.append(trainer.take_training_loss())
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert np.isnan(trainer.take_training_loss())
    trainer.offer(0, 40, later(make_block(rng, 4_096), 10_000_000), 0)
    trainer.train(0, more=True)
    # What was served in these blocks is noise, however well the trainer has learned by now.
    known = trainer.quality.known(0)
    assert known is not None
    assert 0.4 < known.metrics.auc < 0.6


def test_training_loss_is_the_mean_per_row_whatever_the_batches() -> None:
    frozen = replace(MODEL, dense_learning_rate=1e-30, bias_learning_rate=1e-30)
    table = replace(TABLE, learning_rate=1e-30)
    # Without dense features: what is known of them changes with every batch.
    spec = replace(RAGGED, dense=())
    rng = np.random.default_rng(3)
    blocks = [make_block(rng, int(rng.integers(0, 40)), spec) for _ in range(6)]
    losses = []
    for batch_size in (16, 7):
        trainer = OnlineTrainer(spec, frozen, table, replace(CONFIG, batch_size=batch_size))
        for offset, block in enumerate(blocks):
            trainer.offer(0, offset, block, 0)
        trainer.train(0, more=False, flush=True)
        losses.append(trainer.take_training_loss())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_short_batch_waits_until_it_is_old_and_nothing_more_is_at_hand() -> None:
    trainer = _trainer()
    trainer.offer(0, 0, make_block(np.random.default_rng(0), 5), 10_000)
    assert trainer.train(10_999, more=False) == 0
    assert trainer.train(11_000, more=True) == 0
    assert trainer.train(11_000, more=False) == 1
    assert trainer.counters.partial_batches == 1
    assert trainer.positions == {0: (1, 0)}
    assert trainer.waiting_rows == 0


def test_a_record_before_the_position_is_refused() -> None:
    trainer = _trainer()
    trainer.offer(0, 5, None, 0)
    with pytest.raises(TrainerError, match="offset 5 after position 6"):
        trainer.offer(0, 5, None, 0)


def test_a_gap_at_the_position_does_not_skip_rows_of_another_record(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    first = _trainer()
    first.offer(0, 0, make_block(np.random.default_rng(0), 20), 0)
    first.train(0, more=True)
    assert first.positions == {0: (0, 16)}
    first.save(store)
    second = _trainer()
    second.restore(store, _refuse)
    second.offer(0, 4, make_block(np.random.default_rng(1), 7), 0)
    assert second.waiting_rows == 7


@pytest.mark.parametrize("model", [replace(MODEL, dim=5), replace(MODEL, hidden=(9,)), replace(MODEL, kind="logistic")])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, model: ModelConfig) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _trainer().save(store)
    with pytest.raises(CheckpointError, match=r"kind|row_dim|hidden"):
        _trainer(model).restore(store, _refuse)


def test_a_checkpoint_with_other_crosses_is_refused_and_both_are_named(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _trainer().save(store)
    crossed = replace(RAGGED, crosses=(Cross("user_film", 40, ("user", "film"), 1),))
    with pytest.raises(CheckpointError, match=r"its crosses is \[\], .* says \['user_film = user x film \(slot 40"):
        OnlineTrainer(crossed, MODEL, TABLE, CONFIG).restore(store, _refuse)


def test_a_checkpoint_of_another_format_is_refused_before_its_files_are_read(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    for meta in ({"format": CHECKPOINT_FORMAT + 1}, {}):
        store.save({}, meta)
        with pytest.raises(CheckpointError, match=r"another version of rillet, in format \d.*data directory"):
            _trainer().restore(store, _refuse)


def test_another_dense_learning_rate_is_taken_from_the_configuration(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _trainer().save(store)
    second = _trainer(replace(MODEL, dense_learning_rate=0.5))
    second.restore(store, _refuse)
    assert second.learner.optimizer.learning_rate == 0.5


def test_a_model_that_can_learn_from_no_row_any_more_stops() -> None:
    trainer = _trainer()
    with torch.no_grad():
        trainer.learner.model.get_parameter("bias").fill_(np.nan)
    for offset in range(REFUSED_BATCHES_LIMIT):
        trainer.offer(0, offset, make_block(np.random.default_rng(offset), 16), 0)
    with pytest.raises(ModelError, match=f"no row of {REFUSED_BATCHES_LIMIT} batches"):
        trainer.train(0, more=True)
    assert trainer.counters.rows == 0
    assert trainer.counters.refused_rows["unlearnable"] == 16 * REFUSED_BATCHES_LIMIT


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    trainer = _trainer()
    with torch.no_grad():
        trainer.learner.model.get_parameter("bias")[1] = np.nan
    with pytest.raises(ModelError, match=r"^bias of the model"):
        trainer.save(store)
    assert store.versions() == []


def test_action_times_are_bounded_and_handed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.schemas.records.MAX_ACTION_TIMES", 50)
    monkeypatch.setattr("rillet.trainer.online._BATCHES_BETWEEN_BOUNDS", 3)
    trainer = _trainer()
    rng = np.random.default_rng(0)
    for offset in range(20):
        trainer.offer(0, offset, make_block(rng, 32), 0)
    trainer.train(0, more=True)
    fresh = trainer.take_freshness()
    assert 25 <= len(fresh.action_ingest_ms) <= 50 < fresh.actions
    assert (np.diff(fresh.action_ingest_ms) != 0).any()
    later = trainer.take_freshness()
    assert (len(later.action_ingest_ms), later.actions) == (0, 0)
    assert later.newest_event_ms == fresh.newest_event_ms > 0


def _with_times(block: ExampleBlock, ahead_ms: int, row: int) -> ExampleBlock:
    """The block with the request of one row, and its ingestion, so much later."""
    moved = {name: getattr(block, name).copy() for name in ("feature_time_ms", "feature_ingest_ms")}
    for times in moved.values():
        times[row] += ahead_ms
    return replace(block, **moved)


def test_a_first_page_from_the_future_is_published_as_the_newest_no_longer_than_until_others_come() -> None:
    trainer = _trainer()
    first = make_block(np.random.default_rng(0), 32)
    trainer.offer(0, 0, replace(first, feature_time_ms=np.full(32, 90_000_000)), 0)
    trainer.train(0, more=False, flush=True)
    assert trainer.take_freshness().newest_event_ms == 90_000_000
    for offset in range(1, 4):
        trainer.offer(0, offset, make_block(np.random.default_rng(offset), 32), 0)
    trainer.train(0, more=False, flush=True)
    assert trainer.take_freshness().newest_event_ms <= 2_000_010


@pytest.mark.parametrize("first", [0, 3], ids=["among the very first rows", "later"])
def test_one_event_from_the_future_stamps_no_rows_and_is_not_published(first: int) -> None:
    year_ms = 365 * 86_400_000
    straight, moved = _trainer(), _trainer()
    for offset in range(8):
        block = make_block(np.random.default_rng(offset), 16)
        straight.offer(0, offset, block, 0)
        moved.offer(0, offset, _with_times(block, year_ms, 7) if offset == first else block, 0)
    straight.train(0, more=True)
    moved.train(0, more=True)
    assert moved.counters.rows == 8 * 16
    fids, _ = moved.table.items()
    newest = 2_000_000 + 10
    assert moved.table.last_seen(fids).max() <= newest
    for fresh in (straight.take_freshness(), moved.take_freshness()):
        assert 1_900_000 < fresh.newest_event_ms <= newest
        assert 1_900_000 < fresh.newest_ingest_ms <= newest + 1


def test_after_a_pause_the_first_rows_do_not_throw_the_bias() -> None:
    trainer = _trainer(replace(MODEL, kind="logistic", bias_half_life_s=3600.0))
    rng = np.random.default_rng(0)

    def biases(blocks: int, rows: int, first_offset: int, by_ms: int) -> np.ndarray:
        found = []
        for offset in range(first_offset, first_offset + blocks):
            trainer.offer(0, offset, later(make_block(rng, rows), by_ms), 0)
            trainer.train(0, more=False, flush=True)
            found.append(trainer.learner.model.bias.detach().numpy().copy())
        return np.array(found)

    before = np.abs(np.diff(biases(120, 32, 0, 0)[60:], axis=0)).max()
    after = np.abs(np.diff(biases(80, 5, 120, 30 * 86_400_000), axis=0)).max()
    assert after < 2 * before


def test_a_weight_decay_that_turns_weights_around_in_the_first_steps_is_refused() -> None:
    table = replace(TABLE, learning_rate=0.1, weight_decay=5.0)
    with pytest.raises(TrainerError, match=r"^table\.weight_decay: 5\.0 times .*first_step_factor 6\.0 is not below 1"):
        _trainer(table=table)
    _trainer(table=table, config=replace(CONFIG, first_step_factor=1.0))

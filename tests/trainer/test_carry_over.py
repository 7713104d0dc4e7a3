"""A model goes on from its checkpoint on another feature spec: what it has learned is kept, what is new starts fresh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import Cross, DenseFeature, ExampleBlock, FeatureSpec, Slot, SpecRegistry, Task
from rillet.trainer import CheckpointError, CheckpointStore, ModelConfig, OnlineTrainer, TrainerConfig
from rillet.trainer.batch import BatchAssembler
from tests.trainer.blocks import RAGGED, make_block

MODEL = ModelConfig(dim=4, hidden=(8, 6))
CONFIG = TrainerConfig(batch_size=16)
WATCH, LIKE = RAGGED.tasks

#: what may be added, and what stays as it is
ADDED = {
    "a slot": replace(RAGGED, context=(Slot("tags", 2, "token", 3), *RAGGED.context)),
    "a dense feature": replace(RAGGED, dense=(DenseFeature("age"), *RAGGED.dense)),
    "a task": replace(RAGGED, tasks=(Task("share", "share", 2_000), *RAGGED.tasks)),
    "a rate and a window": replace(RAGGED, tasks=(replace(WATCH, negative_rate=1.0, window_ms=9_000), LIKE)),
    "another order": replace(RAGGED, item=RAGGED.item[::-1], tasks=(LIKE, WATCH)),
    "all of these": replace(
        RAGGED,
        context=(*RAGGED.context, Slot("tags", 2, "token", 3)),
        item=RAGGED.item[::-1],
        dense=(DenseFeature("age"), *RAGGED.dense),
        tasks=(LIKE, Task("share", "share", 2_000), WATCH),
    ),
}


def _trainer(spec: FeatureSpec, model: ModelConfig = MODEL) -> OnlineTrainer:
    return OnlineTrainer(spec, model, TableConfig(initial_capacity=64), CONFIG)


def _taught(spec: FeatureSpec, store: CheckpointStore, model: ModelConfig = MODEL, blocks: int = 6) -> OnlineTrainer:
    trainer = _trainer(spec, model)
    for offset in range(blocks):
        trainer.offer(0, offset, make_block(np.random.default_rng(offset), 24, spec), 0)
    trainer.train(0, more=True)
    trainer.save(store, {"publisher": 1})
    return trainer


def _logits(trainer: OnlineTrainer, block: ExampleBlock) -> dict[str, np.ndarray]:
    """What the model predicts for each task."""
    spec = trainer.spec
    assembler = BatchAssembler(spec)
    assembler.add(0, 0, block, 0)
    batch = assembler.take(len(block))
    assert batch is not None
    pooled = trainer.table.gather_pooled(trainer.table.find(batch.fids), batch.lengths)
    with torch.no_grad():
        embeddings = torch.from_numpy(pooled.reshape(len(block), spec.segments, -1))
        logits = trainer.learner.model(embeddings, torch.from_numpy(batch.dense)).numpy()
    return {task.name: logits[:, at] for at, task in enumerate(spec.tasks)}


def _carried(spec: FeatureSpec, old: FeatureSpec, store: CheckpointStore, model: ModelConfig = MODEL) -> OnlineTrainer:
    trainer = _trainer(spec, model)
    restored = trainer.restore(store, pytest.fail, old)
    assert restored is not None
    assert restored.extra == {"publisher": 1}
    return trainer


@pytest.mark.parametrize("kind", ["deepfm", "logistic"])
@pytest.mark.parametrize("hidden", [(8, 6), ()])
@pytest.mark.parametrize("change", ADDED)
def test_what_was_learned_predicts_the_same_on_the_new_spec(
    tmp_path: Path, change: str, kind: str, hidden: tuple[int, ...]
) -> None:
    store, new = CheckpointStore(str(tmp_path), keep=1), ADDED[change]
    model = ModelConfig(kind=kind, dim=4, hidden=hidden)
    before = _taught(RAGGED, store, model)
    after = _carried(new, RAGGED, store, model)
    block = make_block(np.random.default_rng(99), 12)
    expected, found = _logits(before, block), _logits(after, SpecRegistry(new, [RAGGED]).block(block))
    for task in ("watch", "like"):
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-5, atol=1e-6)
    assert after.positions == before.positions
    assert after.counters == before.counters
    assert len(after.table) == len(before.table)


def test_what_is_gone_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    before = _taught(RAGGED, store)
    new = replace(RAGGED, item=RAGGED.item[:1], dense=(), tasks=(LIKE,))
    after = _carried(new, RAGGED, store)
    weights, old = (t.learner.model.state_dict() for t in (after, before))
    # Four columns of the latent vector for each slot; the genres' and the hour's are gone.
    assert torch.equal(weights["model.network.0.weight"], old["model.network.0.weight"][:, :8])
    assert torch.equal(weights["model.network.2.weight"], old["model.network.2.weight"])
    assert torch.equal(weights["model.network.4.weight"], old["model.network.4.weight"][1:])
    assert torch.equal(weights["bias"], old["bias"][1:])
    _learn_on(after)


def test_what_is_new_starts_as_in_a_new_model(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _taught(RAGGED, store)
    new = ADDED["all of these"]
    after, fresh = _carried(new, RAGGED, store).learner, _trainer(new).learner
    weights, initial = after.model.state_dict(), fresh.model.state_dict()
    first = new.tasks.index(Task("share", "share", 2_000))
    assert weights["bias"][first] == initial["bias"][first]
    assert torch.equal(weights["model.network.4.weight"][first], initial["model.network.4.weight"][first])
    # The slot is the second segment, the dense feature the first of the numbers.
    for columns in (slice(4, 8), slice(16, 17)):
        of = "model.network.0.weight"
        assert torch.equal(weights[of][:, columns], initial[of][:, columns])
        assert not np.any(after.optimizer_state()[f"{of}.exp_avg_sq"][:, columns])
    assert after.optimizer_state()["model.network.0.weight.step"] > 0


@pytest.mark.parametrize("change", ADDED)
def test_learning_goes_on_with_blocks_of_both_specs(tmp_path: Path, change: str) -> None:
    store, new = CheckpointStore(str(tmp_path), keep=1), ADDED[change]
    _taught(RAGGED, store)
    after = _carried(new, RAGGED, store)
    rows = after.counters.rows
    specs = SpecRegistry(new, [RAGGED])
    for offset in range(6, 12):
        spec = new if offset % 2 else RAGGED
        after.offer(0, offset, specs.block(make_block(np.random.default_rng(offset), 24, spec)), 0)
    after.train(0, more=False, flush=True)
    assert after.counters.rows > rows
    assert after.positions == {0: (12, 0)}
    # It can be saved and restored as any other.
    after.save(store, {"publisher": 1})
    assert _trainer(new).restore(store, pytest.fail) is not None


def test_rows_that_teach_no_task_of_ours_are_passed_over(tmp_path: Path) -> None:
    only_like = replace(RAGGED, tasks=(LIKE,))
    trainer, specs = _trainer(only_like), SpecRegistry(only_like, [RAGGED])
    blocks = [make_block(np.random.default_rng(seed), 24) for seed in range(4)]
    for offset, block in enumerate(blocks):
        trainer.offer(0, offset, specs.block(block), 0)
    trainer.train(0, more=False, flush=True)
    assert trainer.counters.rows == sum(int(block.mask.reshape(-1, 2)[:, 1].sum()) for block in blocks)
    assert trainer.counters.other_task_rows == sum(map(len, blocks)) - trainer.counters.rows
    assert sum(trainer.counters.refused_rows.values()) == 0
    assert trainer.refused_share == 0
    assert trainer.positions == {0: (4, 0)}


def test_a_dense_feature_that_was_added_is_standardised_by_its_own_rows_soon(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    before = _taught(RAGGED, store)
    new = ADDED["a dense feature"]
    after = _carried(new, RAGGED, store)
    dense = after.learner.model.dense
    assert dense is not None
    assert before.learner.model.dense is not None
    known = before.learner.model.dense.scale[0]
    assert dense.scale.tolist() == [0.0, known]
    rng = np.random.default_rng(5)
    for offset in range(6, 12):
        block = make_block(rng, 24, new)
        ages = rng.normal(40, 2, len(block))
        numbers = block.dense.reshape(-1, 2).copy()
        numbers[:, 0] = ages
        after.offer(0, offset, replace(block, dense=numbers.reshape(-1)), 0)
    after.train(0, more=False, flush=True)
    assert dense.mean[0] == pytest.approx(40, abs=1)
    assert 1 / dense.scale[0] == pytest.approx(2, rel=0.3)
    # The other's sample is still that of all its rows.
    assert dense.scale[1] == pytest.approx(float(known), rel=0.3)


def test_another_transform_starts_its_feature_anew(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _taught(RAGGED, store)
    after = _carried(replace(RAGGED, dense=(DenseFeature("hour", "log1p"),)), RAGGED, store)
    assert after.learner.model.dense is not None
    assert after.learner.model.dense.scale.tolist() == [0.0]


def test_a_cross_that_was_added_has_columns_of_its_own(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    before = _taught(RAGGED, store)
    crossed = replace(RAGGED, crosses=(Cross("user_film", 40, ("user", "film"), 1),))
    after = _carried(crossed, RAGGED, store)
    weights, old = (t.learner.model.state_dict()["model.network.0.weight"] for t in (after, before))
    assert torch.equal(weights[:, :12], old[:, :12])
    assert torch.equal(weights[:, 16:], old[:, 12:])
    _learn_on(after)


def test_quality_is_carried_over_by_task(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    before = _taught(RAGGED, store)
    after = _carried(ADDED["all of these"], RAGGED, store)
    held = [after.quality.held_rows(task) for task in range(3)]
    assert held == [before.quality.held_rows(1), 0, before.quality.held_rows(0)]


def test_a_checkpoint_of_another_model_is_not_carried_over(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    _taught(RAGGED, store)
    with pytest.raises(CheckpointError, match="row_dim"):
        _trainer(ADDED["a slot"], replace(MODEL, dim=5)).restore(store, pytest.fail, RAGGED)


def test_a_model_of_the_users_own_keeps_its_dense_part_where_its_shapes_stay(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=1)
    model = ModelConfig(kind="tests.trainer.own_models:LogToBound", dim=4, hidden=(8,))
    before = _taught(RAGGED, store, model)
    same = _carried(ADDED["a rate and a window"], RAGGED, store, model)
    for name, weights in before.learner.model.state_dict().items():
        assert torch.equal(same.learner.model.state_dict()[name], weights), name
    grown = _carried(ADDED["a task"], RAGGED, store, model)
    fresh = _trainer(ADDED["a task"], model)
    for name, weights in fresh.learner.model.model.state_dict().items():
        assert torch.equal(grown.learner.model.model.state_dict()[name], weights), name
    assert len(grown.table) == len(before.table)


def _learn_on(trainer: OnlineTrainer) -> None:
    rows = trainer.counters.rows
    trainer.offer(0, 6, make_block(np.random.default_rng(6), 24, trainer.spec), 0)
    trainer.train(0, more=False, flush=True)
    assert trainer.counters.rows > rows

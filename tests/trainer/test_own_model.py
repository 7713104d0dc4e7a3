"""A user's own model with scalar parameters and batch normalisation, from training to the server's program."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rillet.embeddings import TableConfig
from rillet.sync import ModelStore
from rillet.trainer import ModelConfig, OnlineTrainer, TrainerConfig, dense_state, export_program
from rillet.trainer.batch import BatchAssembler
from rillet.trainer.dense_inputs import LIMIT
from tests.trainer.blocks import RAGGED, make_block

MODEL = ModelConfig(kind="tests.trainer.test_own_model:Normalised", dim=4)


class Normalised(nn.Module):
    """Scalar parameter, and the scalar buffer of batch normalisation."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(segments * row_dim + dense)
        self.last = nn.Linear(segments * row_dim + dense, tasks)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.norm(torch.cat([embeddings.flatten(1), dense], 1)))
        return logits * self.temperature


class Steep(Normalised):
    """Several rows with a dense feature at its bound have a variance beyond float32."""

    def forward(self, embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        steep = torch.linspace(1e29, 1e30, len(dense))[:, None]
        return super().forward(embeddings, torch.where(dense.abs() == LIMIT, steep, dense))


def _trainer(name: str = "Normalised") -> OnlineTrainer:
    config = TrainerConfig(batch_size=16)
    return OnlineTrainer(
        RAGGED, replace(MODEL, kind=f"tests.trainer.test_own_model:{name}"), TableConfig(initial_capacity=64), config
    )


def _train(trainer: OnlineTrainer, offset: int) -> None:
    trainer.offer(0, offset, make_block(np.random.default_rng(offset), 16), 0)
    trainer.train(0, more=True)


def test_its_weights_keep_their_shapes_through_the_store_and_load_into_the_program(tmp_path: Path) -> None:
    trainer = _trainer()
    _train(trainer, 0)
    model = trainer.learner.model
    written = dense_state(model)
    assert written["model.norm.num_batches_tracked"].shape == written["model.temperature"].shape == ()

    store = ModelStore(str(tmp_path), "own")
    read = store.load_dense(*store.write_dense(1, written))
    assert {name: value.shape for name, value in read.items()} == {n: value.shape for n, value in written.items()}

    program = torch.export.load(BytesIO(export_program(model, RAGGED, MODEL.row_dim))).module()
    program.load_state_dict({name: torch.from_numpy(value) for name, value in read.items()})
    model.eval()
    embeddings, dense = torch.randn(3, 3, MODEL.row_dim), torch.randn(3, 1)
    with torch.no_grad():
        torch.testing.assert_close(program(embeddings, dense), model(embeddings, dense))


def test_a_batch_that_would_make_the_running_statistics_infinite_is_refused_and_leaves_them_alone() -> None:
    trainer = _trainer("Steep")
    for offset in range(3):
        _train(trainer, offset)
    before = dense_state(trainer.learner.model)
    block = make_block(np.random.default_rng(3), 16)
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 3, replace(block, dense=np.full(16, 1e9, np.float32)), 0)
    batch = assembler.take(16)
    assert batch is not None
    assert trainer.learner.step(batch, 0, 0).refused
    after = dense_state(trainer.learner.model)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        np.testing.assert_array_equal(after[f"model.norm.{name}"], before[f"model.norm.{name}"], strict=True)


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics() -> None:
    trainer = _trainer()
    _train(trainer, 0)
    before = dense_state(trainer.learner.model)
    trainer.offer(0, 1, make_block(np.random.default_rng(1), 1), 0)
    trainer.train(0, more=False, flush=True)
    assert trainer.counters.rows == 17
    after = dense_state(trainer.learner.model)
    assert (after["model.last.weight"] != before["model.last.weight"]).any(), "it is learned from"
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        np.testing.assert_array_equal(after[f"model.norm.{name}"], before[f"model.norm.{name}"])
    _train(trainer, 2)
    assert (dense_state(trainer.learner.model)["model.norm.running_mean"] != before["model.norm.running_mean"]).any()

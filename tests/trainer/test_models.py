from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import nn

from rillet.schemas import DenseFeature
from rillet.trainer import DeepFM, ModelConfig, ModelError, build_model, dense_state, export_program
from tests.trainer.blocks import RAGGED


class Mean(nn.Module):
    """A user's own model."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(tasks))

    def forward(self, embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return embeddings.mean((1, 2)).unsqueeze(1) * self.weight


def test_the_fm_term_is_the_sum_of_pairwise_products() -> None:
    model = DeepFM(segments=4, row_dim=6, dense=0, tasks=1, hidden=())
    nn.init.zeros_(model.network[-1].weight)  # type: ignore[arg-type]
    embeddings = torch.randn(3, 4, 6)
    pairs = torch.zeros(3, 1)
    for i in range(4):
        for j in range(i):
            pairs[:, 0] += (embeddings[:, i, 1:] * embeddings[:, j, 1:]).sum(1)
    expected = embeddings[:, :, 0].sum(1, keepdim=True) + pairs
    torch.testing.assert_close(model(embeddings, torch.zeros(3, 0)), expected)


def test_initial_weights_depend_on_the_seed_only() -> None:
    first = dense_state(build_model(ModelConfig(seed=3), RAGGED))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = dense_state(build_model(ModelConfig(seed=3), RAGGED))
    assert torch.equal(state, torch.get_rng_state())
    other = dense_state(build_model(ModelConfig(seed=4), RAGGED))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", ["logistic", "deepfm", "tests.trainer.test_models:Mean"])
def test_the_exported_program_answers_like_the_model_for_any_number_of_rows(kind: str) -> None:
    config, spec = ModelConfig(kind=kind, dim=4, hidden=(8,)), replace(RAGGED, dense=(DenseFeature("price", "log1p"),))
    model = build_model(config, spec)
    data = export_program(model, spec, config.row_dim)
    with torch.no_grad():
        for weight in (*model.parameters(), model.get_buffer("dense.mean"), model.get_buffer("dense.scale")):
            weight.add_(0.1)
        program = torch.export.load(BytesIO(data)).module()
        program.load_state_dict({name: torch.from_numpy(value) for name, value in dense_state(model).items()})
        for rows in (1, 7):
            embeddings, dense = torch.randn(rows, 3, config.row_dim), 1_000 * torch.randn(rows, 1)
            torch.testing.assert_close(program(embeddings, dense), model(embeddings, dense))


@pytest.mark.parametrize("kind", ["logistic", "deepfm", "tests.trainer.test_models:Mean"])
def test_any_model_without_history_predicts_its_initial_rate(kind: str) -> None:
    model = build_model(ModelConfig(kind=kind, dim=4, hidden=(8,), initial_rate=0.03), RAGGED)
    with torch.no_grad():
        scores = torch.sigmoid(model(torch.zeros(5, 3, 5), torch.zeros(5, 1)))
    # A network's layers have small random biases.
    assert (scores / 0.03).numpy() == pytest.approx(1, abs=0.5)
    if kind != "deepfm":
        assert scores.numpy() == pytest.approx(0.03)


@pytest.mark.parametrize("kind", ["no.such.module:Model", "schemas:Missing", "builtins:dict"])
def test_an_own_model_that_cannot_be_used_is_named(kind: str) -> None:
    with pytest.raises((ModelError, TypeError), match=r"model.kind|dict"):
        build_model(ModelConfig(kind=kind), RAGGED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "forest"),
        ("dim", 0),
        ("hidden", (8, 0)),
        ("dense_learning_rate", 0.0),
        ("initial_rate", 0.0),
        ("initial_rate", 1.0),
        ("name", "a|b"),
    ],
)
def test_impossible_model_configurations_are_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        ModelConfig(**{field: value})  # type: ignore[arg-type]

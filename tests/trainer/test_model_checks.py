"""The list of checks: the built-in models pass it, and for each check there is a model that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rillet.trainer import ModelConfig, ModelError, build_model, check_model, dense_state
from tests.trainer.blocks import RAGGED

ROW_DIM = 5
SLOTS, DENSE, TASKS = len(RAGGED.slots), len(RAGGED.dense), len(RAGGED.tasks)


class Good(nn.Module):
    """Passes; every model below breaks one thing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(SLOTS * ROW_DIM + DENSE, TASKS)

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return torch.cat([embeddings.flatten(1), dense], 1)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        logits: Tensor = self.last(self.inputs(embeddings, dense))
        return logits


class OneTask(Good):
    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().forward(embeddings, dense)[:, :1]


class Squeezed(Good):
    """Drops the dimension of a single row."""

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().forward(embeddings, dense).squeeze(0)


class TwoOutputs(Good):
    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        logits = super().forward(embeddings, dense)
        return logits, logits  # type: ignore[return-value]


class Double(Good):
    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().forward(embeddings, dense).double()


class Infinite(Good):
    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().forward(embeddings, dense) + torch.log(dense.square().sum(1, keepdim=True) * 0)


class FixedRows(Good):
    """Was written for one size of batch."""

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return torch.cat([embeddings.reshape(2, -1), dense], 1)


class BatchNormalised(Good):
    """Has no statistics of a batch of one row, and takes its running ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(SLOTS * ROW_DIM + DENSE)

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        normalised: Tensor = self.norm(super().inputs(embeddings, dense))
        return normalised


class StandardisedByHand(Good):
    """Has no statistics of a batch of one row."""

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        inputs = super().inputs(embeddings, dense)
        return nn.functional.batch_norm(inputs, None, None, training=True)


class Noisy(Good):
    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return nn.functional.dropout(super().inputs(embeddings, dense), training=True)


class Centred(Good):
    """Takes the mean over the batch."""

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        inputs = super().inputs(embeddings, dense)
        return inputs - inputs.mean(0)


class Detached(Good):
    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().inputs(embeddings.detach(), dense)


class DetachedForOne(Good):
    """The second task teaches the embeddings nothing."""

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        both, second = super().forward(embeddings, dense), super().forward(embeddings.detach(), dense)
        return torch.cat([both[:, :1], second[:, 1:]], 1)


class NotSmooth(Good):
    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        return super().forward(embeddings, dense) + (0 * embeddings).sum((1, 2)).sqrt().unsqueeze(1)


class Lazy(Good):
    """Registers a buffer when it is first called."""

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        self.register_buffer("seen", torch.zeros(1))
        return super().forward(embeddings, dense)


class InfiniteWeight(Good):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("limit", torch.tensor(torch.inf))


class Branching(Good):
    """Decides by the values of a batch."""

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        logits = super().forward(embeddings, dense)
        return logits if bool(logits.sum() > 1e9) else logits + 0.0


class Counting(Good):
    """Its answer depends on how often it was asked, in Python: the exported program stands still."""

    calls = 0.0

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        self.__dict__["calls"] = self.calls + (1.0 if torch.compiler.is_exporting() else 0.0)
        return super().forward(embeddings, dense) + self.calls


class AsAdvised(Good):
    """Does what the models above get wrong, the way in which each message says that it can be done."""

    def __init__(self) -> None:
        super().__init__()
        width = SLOTS * ROW_DIM + DENSE
        self.over_rows, self.over_features = nn.BatchNorm1d(width), nn.LayerNorm(width)
        self.register_buffer("seen", torch.zeros(1))

    def inputs(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        centred = embeddings - embeddings.mean((1, 2), keepdim=True)
        inputs = self.over_features(self.over_rows(super().inputs(centred, dense)))
        return nn.functional.dropout(inputs, training=self.training)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        logits = super().forward(embeddings, dense)
        bounded = torch.log(dense.square().sum(1, keepdim=True) + 1.0)
        smooth = (embeddings.square().sum((1, 2)) + 1.0).sqrt().unsqueeze(1)
        small = torch.exp(logits.clamp(-5, 5)) / smooth
        return torch.where(logits > 0, logits, logits + 0.01 * small) + bounded + self.seen


def test_a_model_that_does_it_as_the_messages_advise_passes() -> None:
    check_model(AsAdvised(), RAGGED, row_dim=ROW_DIM)


@pytest.mark.parametrize("kind", ["logistic", "deepfm"])
def test_the_built_in_models_pass(kind: str) -> None:
    config = ModelConfig(kind=kind, dim=4, hidden=(8,))
    check_model(build_model(config, RAGGED), RAGGED, row_dim=config.row_dim)


def test_the_module_is_left_as_it_was() -> None:
    model = Good().train()
    before, state = dense_state(model), torch.get_rng_state()
    check_model(model, RAGGED, row_dim=ROW_DIM)
    assert model.training
    assert all((value == before[name]).all() for name, value in dense_state(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OneTask, r"OneTask: forward gives the shape \[1, 1\] for 1 rows, expected \[1, 2\].*watch, like"),
        (Squeezed, r"gives the shape \[2\] for 1 rows"),
        (TwoOutputs, "gives a tuple, expected one tensor"),
        (Double, "float64, expected torch.float32"),
        (Infinite, "not finite in training.*smaller scale"),
        (FixedRows, r"fails in training for (1|7) rows"),
        (StandardisedByHand, "fails in training for 1 rows.*BatchNorm1d.*LayerNorm"),
        (Noisy, "other logits the second time.*self.training"),
        (Centred, "depend on the other rows"),
        (Detached, "task watch has no gradient"),
        (DetachedForOne, "task like has no gradient"),
        (NotSmooth, "gradient of task watch is not finite"),
        (Lazy, r"other names or shapes after forward \(seen\): register"),
        (InfiniteWeight, "limit of the model holds a number that is not finite"),
        (Branching, "torch.export cannot export it.*branches on tensor values"),
        (Counting, "exported program gives other logits.*Python state"),
    ],
)
def test_a_model_that_breaks_a_rule_is_refused_with_what_to_do(kind: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_model(kind(), RAGGED, row_dim=ROW_DIM)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ModelError, match=r"dict: is not a torch\.nn\.Module"):
        check_model({}, RAGGED)  # type: ignore[arg-type]

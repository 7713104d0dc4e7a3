"""The dense part of a model: embeddings and dense features in, one logit per task out.

Embedding rows are in the embedding table, not here. Column 0 of a row is its linear weight, the others are the
latent vector. Source: Guo et al. 2017, "DeepFM" (sections 2.1 and 2.2); a task has its own scale on the shared linear
and FM terms and its own output of the network. Whatever the model, its dense features are standardised
(:mod:`rillet.trainer.dense_inputs`), and a bias per task is added to what it gives.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rillet.schemas import DenseFeature, FeatureSpec
from rillet.trainer.config import ModelConfig
from rillet.trainer.dense_inputs import DenseInput
from rillet.trainer.errors import ModelError


class WholeModel(nn.Module):
    """What is trained, exported and served: a model, its dense features standardised, and a bias per task.

    The bias is all that a model knows before its first example. It starts at the log-odds of a low rate, as in Lin et al.
    2017, "Focal loss", section 4.1, and has an optimiser of its own: the first labels tell the rate of a task long before
    they tell one impression from another.
    """

    def __init__(self, model: nn.Module, dense: Sequence[DenseFeature], tasks: int, initial_rate: float) -> None:
        super().__init__()
        self.dense = DenseInput(dense) if dense else None
        self.model = model
        self.bias = nn.Parameter(torch.full((tasks,), math.log(initial_rate / (1 - initial_rate))))

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], raw dense float32[n, Dd] -> logits float32[n, T]."""
        inputs = dense if self.dense is None else self.dense(dense)
        return cast(Tensor, self.model(embeddings, inputs) + self.bias)


class LogisticRegression(nn.Module):
    """Sum of linear weights, with a scale per task."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(tasks))
        self.dense_weight = nn.Parameter(torch.zeros(dense, tasks))

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        linear = embeddings[:, :, 0].sum(1, keepdim=True)
        return linear * self.scale + dense @ self.dense_weight


class DeepFM(nn.Module):
    """Linear term + second-order factorisation machine + network over the same embeddings."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = LogisticRegression(segments, row_dim, dense, tasks)
        self.fm_scale = nn.Parameter(torch.ones(tasks))
        layers: list[nn.Module] = []
        width = segments * (row_dim - 1) + dense
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.network = nn.Sequential(*layers, nn.Linear(width, tasks, bias=False))

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        # Split rather than sliced: the gradient of the parts is then written once, not added up.
        linear_weights, latent = embeddings.split_with_sizes((1, embeddings.shape[2] - 1), dim=2)
        summed = latent.sum(1)
        # Rendle 2010, lemma 3.1: all pairwise products in time linear in S.
        pairs = 0.5 * (summed.square() - latent.square().sum(1)).sum(1, keepdim=True)
        inputs = latent.flatten(1)
        deep = self.network(torch.cat([inputs, dense], 1) if dense.shape[1] else inputs)
        return cast(Tensor, self.linear(linear_weights, dense) + pairs * self.fm_scale + deep)


@contextmanager
def known_statistics(model: nn.Module, rows: int) -> Iterator[None]:
    """Within it, batch normalisation takes its running statistics for a batch of one row, whose own has no variance."""
    modules = model.modules() if rows == 1 else ()
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def build_model(config: ModelConfig, spec: FeatureSpec) -> WholeModel:
    """The model of a configuration with reproducible initial weights; the global random state is left as it was.

    A user's own class is called as ``Class(segments, row_dim, dense, tasks, hidden=...)`` and must map
    (float32[n, segments, row_dim], float32[n, dense]) to float32[n, tasks], dense features standardised and within
    :data:`~rillet.trainer.dense_inputs.LIMIT`; :func:`rillet.trainer.check_model` tells
    whether it can be trained and served.

    :raises ModelError: the class of ``kind`` cannot be imported or is not a ``torch.nn.Module``.
    """
    shape = (spec.segments, config.row_dim, len(spec.dense), len(spec.tasks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return WholeModel(_build_inner(config, shape), spec.dense, len(spec.tasks), config.initial_rate)


def _build_inner(config: ModelConfig, shape: tuple[int, int, int, int]) -> nn.Module:
    if config.kind == "logistic":
        return LogisticRegression(*shape)
    if config.kind == "deepfm":
        return DeepFM(*shape, hidden=config.hidden)
    module, _, name = config.kind.partition(":")
    try:
        model = getattr(importlib.import_module(module), name)(*shape, hidden=config.hidden)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"model.kind {config.kind!r}: {error}; expected package.module:Class") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.kind {config.kind!r} is not a torch.nn.Module")
    return model

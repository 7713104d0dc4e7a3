"""The optimisers of table rows: how wide a row is, what its slots start with, and the step.

A row is its embedding, then the slots. One object serves one table; state that differs from row to row lies in the row.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rillet.embeddings import update_kernels
from rillet.embeddings.config import TableConfig
from rillet.embeddings.errors import TableInputError
from rillet.embeddings.slabs import RowSlabs
from rillet.schemas.arrays import Float32s, Int64s

#: steps for which Adam's corrections are tabled; beyond, the last entry holds
_MAX_CORRECTIONS = 1 << 18


class RowOptimizer(Protocol):
    """What a table asks of an optimiser."""

    #: floats per row after the embedding
    slots: int
    #: what each of them is in a new row
    initial_slot: float

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, factor: float) -> None:
        """Updates the distinct ``rows`` int64[n] by ``grad`` float32[n, dim], in place.

        :param factor: of the step size.
        """


class NoOptimizer:
    """Rows that only upsert changes."""

    slots = 0
    initial_slot = 0.0

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, factor: float) -> None:
        """:raises TableInputError: always."""
        raise TableInputError("apply_gradients: the table has optimizer none, it takes rows by upsert only")


class Adagrad:
    """One sum of squared gradients per column (Duchi et al., 2011)."""

    def __init__(self, dim: int, config: TableConfig) -> None:
        self.slots = dim
        self.initial_slot = config.initial_accumulator
        self._config = config

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, factor: float) -> None:
        """acc += g*g; w -= lr * g / (sqrt(acc) + eps)."""
        config = self._config
        learning_rate = config.learning_rate * factor
        update_kernels.adagrad(rows, grad, slabs.rows_at, slabs.shift, learning_rate, config.eps)


class LazyAdam:
    """Two moments per column and a step count per row (Kingma and Ba, 2015, applied to touched rows only)."""

    initial_slot = 0.0

    def __init__(self, dim: int, config: TableConfig) -> None:
        self.slots = 2 * dim + 1
        self._config = config
        self._rates, self._root_scales = adam_corrections(config)

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, factor: float) -> None:
        """Adam with the row's own step count in the bias correction."""
        config = self._config
        update_kernels.lazy_adam(
            rows,
            grad,
            slabs.rows_at,
            slabs.shift,
            self._rates if factor == 1 else self._rates * np.float32(factor),
            self._root_scales,
            config.beta1,
            config.beta2,
            config.eps,
        )


def adam_corrections(config: TableConfig) -> tuple[Float32s, Float32s]:
    """lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t) by step t from 0 (unused), float32[n] each.

    They end where neither differs from its limit in float32, for betas up to 0.9999; above, at 2**18 steps.
    """
    slowest = max(config.beta1, config.beta2)
    steps = 1 if slowest == 0 else int(np.ceil(np.log(2.0**-26) / np.log(slowest)))
    t = np.arange(1, min(max(steps, 1), _MAX_CORRECTIONS) + 1)
    rates = config.learning_rate / (1 - config.beta1**t)
    root_scales = 1 / np.sqrt(1 - config.beta2**t)
    return np.append(0, rates).astype(np.float32), np.append(0, root_scales).astype(np.float32)


def make_optimizer(dim: int, config: TableConfig) -> RowOptimizer:
    """The optimiser that the configuration names."""
    if config.optimizer == "adagrad":
        return Adagrad(dim, config)
    if config.optimizer == "lazy_adam":
        return LazyAdam(dim, config)
    return NoOptimizer()

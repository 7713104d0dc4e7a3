"""The optimisers of table rows: how wide a row is, and the step.

A row is its embedding, then the slots. One object serves one table; state that differs from row to row lies in the row.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rillet.embeddings import step_kernels
from rillet.embeddings.config import TableConfig
from rillet.embeddings.decay import ForwardDecay
from rillet.embeddings.errors import TableInputError
from rillet.embeddings.slabs import RowSlabs
from rillet.schemas.arrays import Float32s, Int64s

#: steps for which Adam's corrections are tabled; beyond, the last entry holds
_MAX_CORRECTIONS = 1 << 18


class RowOptimizer(Protocol):
    """What a table asks of an optimiser."""

    #: floats per row after the embedding; all are 0 in a new row
    slots: int

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, now_ms: int, factor: float) -> None:
        """Updates the distinct ``rows`` int64[n] by ``grad`` float32[n, dim], in place.

        :param now_ms: event time, for what decays with it.
        :param factor: of the step size.
        """

    def changes_all(self, now_ms: int) -> bool:
        """Whether a :meth:`step` at that time changes rows that are not in its batch."""

    def clock(self) -> Int64s:
        """int64[3]: half-life, landmark and newest time in ms that stored slots are read with; 0 where none decays."""

    def load_clock(self, slabs: RowSlabs, clock: Int64s) -> None:
        """Goes on with slots that were stored under a :meth:`clock`, of another half-life too."""


class NoOptimizer:
    """Rows that only upsert changes."""

    slots = 0

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, now_ms: int, factor: float) -> None:
        """:raises TableInputError: always."""
        raise TableInputError("apply_gradients: the table has optimizer none, it takes rows by upsert only")

    def changes_all(self, now_ms: int) -> bool:
        """Never."""
        return False

    def clock(self) -> Int64s:
        """Zeros: nothing decays."""
        return np.zeros(3, np.int64)

    def load_clock(self, slabs: RowSlabs, clock: Int64s) -> None:
        """Nothing to do."""


class DecayedSquares:
    """One sum of squared gradients per column, the first slots of a row, which halves with event time."""

    def __init__(self, dim: int, config: TableConfig) -> None:
        self._dim = dim
        self._decay = ForwardDecay(config.accumulator_half_life_s)

    def changes_all(self, now_ms: int) -> bool:
        """Once in eight half-lives: all sums are scaled."""
        return self._decay.will_scale(now_ms)

    def clock(self) -> Int64s:
        """Of the sums."""
        return np.array(self._decay.state(), np.int64)

    def load_clock(self, slabs: RowSlabs, clock: Int64s) -> None:
        """Goes on with stored sums."""
        self._scale(slabs, self._decay.load_state(clock.tolist()))

    def weight_at(self, slabs: RowSlabs, now_ms: int) -> float:
        """What the squares of a step at that time are multiplied by before they are added to the stored sums."""
        self._scale(slabs, self._decay.advance(now_ms))
        return self._decay.weight

    def _scale(self, slabs: RowSlabs, factor: float) -> None:
        if factor != 1:
            step_kernels.scale(slabs.row_end, slabs.rows_at, slabs.shift, slabs.width, self._dim, self._dim, factor)


class Adagrad(DecayedSquares):
    """Adagrad (Duchi et al., 2011) whose sums of squares decay towards their initial value."""

    def __init__(self, dim: int, config: TableConfig) -> None:
        super().__init__(dim, config)
        self.slots = dim
        self._config = config

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, now_ms: int, factor: float) -> None:
        """acc += g*g; w -= lr * g / (sqrt(acc) + eps)."""
        config = self._config
        step_kernels.adagrad(
            rows,
            grad,
            slabs.rows_at,
            slabs.shift,
            config.learning_rate * factor,
            config.eps,
            config.initial_accumulator,
            self.weight_at(slabs, now_ms),
            config.weight_decay,
        )


class Ftrl(DecayedSquares):
    """FTRL-proximal (McMahan et al., 2013): Adagrad's steps, with weights that are exactly 0 until enough speaks for them."""

    def __init__(self, dim: int, config: TableConfig) -> None:
        super().__init__(dim, config)
        self.slots = 2 * dim
        self._config = config

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, now_ms: int, factor: float) -> None:
        """The paper's per-coordinate algorithm 1."""
        config = self._config
        step_kernels.ftrl(
            rows,
            grad,
            slabs.rows_at,
            slabs.shift,
            config.learning_rate * factor,
            config.eps,
            config.initial_accumulator,
            self.weight_at(slabs, now_ms),
            config.l1,
            config.l2,
        )


class LazyAdam:
    """Two moments per column and a step count per row (Kingma and Ba, 2015, applied to touched rows only)."""

    def __init__(self, dim: int, config: TableConfig) -> None:
        self.slots = (3 if config.amsgrad else 2) * dim + 1
        self._config = config
        self._rates, self._root_scales = adam_corrections(config)

    def step(self, slabs: RowSlabs, rows: Int64s, grad: Float32s, now_ms: int, factor: float) -> None:
        """Adam with the row's own step count in the bias correction."""
        config = self._config
        step_kernels.lazy_adam(
            rows,
            grad,
            slabs.rows_at,
            slabs.shift,
            self._rates if factor == 1 else self._rates * np.float32(factor),
            self._root_scales,
            config.beta1,
            config.beta2,
            config.eps,
            config.amsgrad,
            config.weight_decay,
        )

    def changes_all(self, now_ms: int) -> bool:
        """Never."""
        return False

    def clock(self) -> Int64s:
        """Zeros: the moments decay with a row's steps, not with time."""
        return np.zeros(3, np.int64)

    def load_clock(self, slabs: RowSlabs, clock: Int64s) -> None:
        """Nothing to do."""


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
    if config.optimizer == "ftrl":
        return Ftrl(dim, config)
    if config.optimizer == "lazy_adam":
        return LazyAdam(dim, config)
    return NoOptimizer()

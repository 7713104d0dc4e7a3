"""Settings of an embedding table, except its dim, which the model decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rillet.schemas.ranges import check_above_zero, check_finite, check_not_negative

#: smallest float32 that is computed with as such: smaller ones may be flushed to 0
_SMALLEST = 2.0**-126

Optimizer = Literal["none", "adagrad", "lazy_adam"]


@dataclass(frozen=True, slots=True)
class TableConfig:
    """How rows are initialised, updated and stored.

    :raises ValueError: a field out of range; the message starts with the field's name.
    """

    #: "none" has no optimiser slots and refuses gradients: the table of a replica
    optimizer: Optimizer = "adagrad"
    #: step size, both optimisers; lazy_adam wants about a tenth of adagrad's
    learning_rate: float = 0.03
    #: lazy_adam: decay of the mean of gradients, in [0, 1)
    beta1: float = 0.9
    #: lazy_adam: decay of the mean of squared gradients, in [0, 1)
    beta2: float = 0.999
    #: added to the root in the denominator, both optimisers; 0 only for adagrad with an initial_accumulator
    eps: float = 1e-8
    #: adagrad: the sum of squared gradients with which a new row starts
    initial_accumulator: float = 0.1
    #: columns 1.. of a new row are uniform in [-init_scale, init_scale)
    init_scale: float = 0.05
    #: of the initialiser: same fid and seed, same row, on any machine
    seed: int = 0
    #: rows per chunk, a power of two; a table grows by one chunk at a time
    chunk_rows: int = 65_536
    #: keys that the map has room for before it first grows
    initial_capacity: int = 65_536
    #: touched keys from which ``TouchedKeys.should_drain`` asks for an early take; none is ever dropped
    touched_capacity: int = 1 << 20

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer: {self.optimizer!r} is none of {', '.join(get_args(Optimizer))}")
        rates = ("learning_rate", "beta1", "beta2", "eps", "initial_accumulator", "init_scale")
        check_not_negative(self, *rates)
        check_finite(self, *rates)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not below 1")
        empty = self.optimizer == "lazy_adam" or (self.optimizer == "adagrad" and self.initial_accumulator < _SMALLEST)
        if empty and self.eps < _SMALLEST:
            # A column without gradient, as of an unused task, would be 0 / 0 at its first step.
            also = " where initial_accumulator is 0" if self.optimizer == "adagrad" else ""
            raise ValueError(f"eps: {self.eps} is 0 in float32, {self.optimizer} divides by it{also}; leave it at 1e-8")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed: {self.seed} is not in 0..2**63-1")
        if not 1 <= self.chunk_rows <= 1 << 24 or self.chunk_rows & (self.chunk_rows - 1):
            raise ValueError(f"chunk_rows: {self.chunk_rows} is not a power of two in 1..2**24")
        if not 1 <= self.initial_capacity <= 1 << 28:
            raise ValueError(f"initial_capacity: {self.initial_capacity} is not in 1..2**28")
        check_above_zero(self, "touched_capacity")

"""Settings of an embedding table, except its dim, which the model decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rillet.schemas.ranges import check_above_zero, check_finite, check_not_negative

Optimizer = Literal["none", "adagrad", "lazy_adam", "ftrl"]

#: smallest float32 that is computed with as such: smaller ones may be flushed to 0
_SMALLEST = 2.0**-126
#: smallest share of a weight that a step can take away, to within a tenth of it
_SMALLEST_DECAY = 1e-6
#: all sums are scaled every 8 half-lives, which takes as long as reading the table
_SHORTEST_HALF_LIFE_S = 60.0
#: settings that are off by default, and the optimisers that know them
_USED_BY: dict[str, tuple[Optimizer, ...]] = {
    "l1": ("ftrl",),
    "l2": ("ftrl",),
    "amsgrad": ("lazy_adam",),
    "weight_decay": ("adagrad", "lazy_adam"),
}


@dataclass(frozen=True, slots=True)
class TableConfig:
    """How the rows of the embedding table are initialised, updated and stored.

    :raises ValueError: a field out of range; the message starts with the field's name.
    """

    #: how embeddings learn: adagrad and ftrl keep one sum per weight, lazy_adam two means; "none" does not learn, which is
    #: for the table of a server
    optimizer: Optimizer = "adagrad"
    #: step size of the embeddings, all optimisers; lazy_adam wants about a tenth of adagrad's
    learning_rate: float = 0.03
    #: added to the root in the denominator, all optimisers; of ftrl it is the paper's beta. 0 only with an
    #: initial_accumulator
    eps: float = 1e-8
    #: adagrad, ftrl: the sum of squared gradients with which a new row starts, and towards which it decays
    initial_accumulator: float = 0.1
    #: adagrad, ftrl: event time in which half of what was added to the sum of squared gradients is forgotten, in seconds,
    #: 60 or more; 0 = never. Without it steps die out: after n of them they are of size 1 / sqrt(n)
    accumulator_half_life_s: float = 86_400.0
    #: ftrl: a column is 0 until the sum of its gradients is above this. The sum does not decay: after long enough noise
    #: alone exceeds it, the sooner the more traffic a row has
    l1: float = 0.0
    #: ftrl: added to sqrt(sum of squared gradients) / learning_rate, by which steps are divided: shorter steps, the less so
    #: the larger the sum is. It pulls no learned weight back to 0
    l2: float = 0.0
    #: lazy_adam: decay per step of a row's mean of gradients
    beta1: float = 0.9
    #: lazy_adam: decay per step of a row's mean of squared gradients
    beta2: float = 0.999
    #: lazy_adam: divides by the largest mean of squares so far instead of by the present one, so steps only get smaller
    amsgrad: bool = False
    #: adagrad, lazy_adam: share of a row that each of its steps takes away, in units of the learning rate
    weight_decay: float = 0.0
    #: the embedding of a new row is drawn from [-init_scale, init_scale); its linear weight starts at 0
    init_scale: float = 0.05
    #: seed of new rows: same feature and seed, same row, on any machine
    seed: int = 0
    #: rows by which the table grows at a time
    chunk_rows: int = 65_536
    #: rows that the table's index has room for at the start; it doubles when it is full
    initial_capacity: int = 65_536
    #: changed rows that wait for publication at which it is due early; none is ever dropped
    touched_capacity: int = 1 << 20

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer: {self.optimizer!r} is none of {', '.join(get_args(Optimizer))}")
        sums = ("eps", "initial_accumulator", "accumulator_half_life_s", "l1", "l2")
        rates = ("learning_rate", "beta1", "beta2", "weight_decay", "init_scale", *sums)
        check_not_negative(self, *rates)
        check_finite(self, *rates)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not below 1")
        if 0 < self.accumulator_half_life_s < _SHORTEST_HALF_LIFE_S:
            raise ValueError(
                f"accumulator_half_life_s: {self.accumulator_half_life_s} is below {_SHORTEST_HALF_LIFE_S}; 0 is never"
            )
        for name, users in _USED_BY.items():
            if getattr(self, name) and self.optimizer not in users:
                raise ValueError(
                    f"{name}: {getattr(self, name)} does nothing for {self.optimizer}, only for {', '.join(users)}"
                )
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay: {self.weight_decay} times learning_rate {self.learning_rate} is not below 1"
            )
        if 0 < self.learning_rate * self.weight_decay < _SMALLEST_DECAY:
            raise ValueError(
                f"weight_decay: {self.weight_decay} times learning_rate {self.learning_rate} is below {_SMALLEST_DECAY},"
                " which float32 weights round away; 0 is none"
            )
        starts_full = self.optimizer in ("adagrad", "ftrl")
        empty = self.optimizer == "lazy_adam" or (starts_full and self.initial_accumulator < _SMALLEST)
        if empty and self.eps < _SMALLEST:
            # A column without gradient, as of an unused task, would be 0 / 0 at its first step.
            also = " where initial_accumulator is 0" if starts_full else ""
            raise ValueError(f"eps: {self.eps} is 0 in float32, {self.optimizer} divides by it{also}; leave it at 1e-8")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed: {self.seed} is not in 0..2**63-1")
        if not 1 <= self.chunk_rows <= 1 << 24 or self.chunk_rows & (self.chunk_rows - 1):
            raise ValueError(f"chunk_rows: {self.chunk_rows} is not a power of two in 1..2**24")
        if not 1 <= self.initial_capacity <= 1 << 28:
            raise ValueError(f"initial_capacity: {self.initial_capacity} is not in 1..2**28")
        check_above_zero(self, "touched_capacity")

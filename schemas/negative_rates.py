"""At which rate negatives of a task are kept where one rate for all of them is not enough: by a slot's value, or by score.

Source of the rate by score: Wang, Zhang and Wang 2021, "Nonuniform negative sampling and log odds correction with rare events
data". What is decided with a rate is in ``docs/join.md``, rule 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: rates are stored as float32, and a row counts 1/rate times: a lower one would say nothing of what it stands for
LOWEST_RATE = 1e-6


@dataclass(frozen=True, slots=True)
class RateClass:
    """Values of a slot, as the slot takes them, and the rate of negatives that have one of them."""

    values: tuple[str | int | float, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class RateBySlot:
    """The rate of a negative follows from its value of ``slot``; with a value of no class it is the task's."""

    slot: str
    classes: tuple[RateClass, ...]

    def __str__(self) -> str:
        """For people.

        >>> str(RateBySlot("surface", (RateClass(("search", "mail"), 1.0), RateClass(("home",), 0.05))))
        'by surface (1 of 2 values, 0.05 of 1)'
        """
        counts = [f"{one.rate:g} of {len(one.values)}" for one in self.classes]
        first, *others = counts
        values = "value" if first.endswith(" of 1") else "values"
        return f"by {self.slot} ({', '.join([f'{first} {values}', *others])})"


@dataclass(frozen=True, slots=True)
class RateByScore:
    """The rate of a negative is in proportion to the probability p that it was served with.

    It is ``negative_rate * p / mean_score``, at least ``floor`` and at most 1; without a score it is the task's. So the mean
    rate is the task's as long as ``mean_score`` is the mean of p, and the bounds matter to few (:func:`fit_mean_score`). The scale is a constant of
    the spec, and no running estimate: a replay and a restart have to keep the same negatives.
    """

    mean_score: float
    floor: float

    def __str__(self) -> str:
        """For people."""
        return f"by score (mean {self.mean_score:g}, floor {self.floor:g})"


def fit_mean_score(scores: npt.ArrayLike, rate: float, floor: float) -> float:
    """The ``mean_score`` with which the mean rate over a sample of scores is ``rate``, bounds taken into account.

    :param scores: probabilities, of any shape.
    :param rate: ``negative_rate`` of the task.
    :raises ValueError: no scores, or the floor is not below the rate.

    >>> fit_mean_score([0.1, 0.1, 0.4, 0.4], rate=0.1, floor=0.01), fit_mean_score([0.1, 0.1, 0.4, 0.4], rate=0.1, floor=0.05)
    (0.25, 0.266667)
    """
    p = np.asarray(scores, np.float64).reshape(-1)
    if not len(p) or not 0 < floor < rate <= 1:
        raise ValueError(f"{len(p)} scores, floor {floor} and rate {rate}: expected scores, and 0 < floor < rate <= 1")
    # The mean rate falls as mean_score grows: bisection, of the logarithm.
    low, high = float(np.log(max(p.min(), 1e-12))) - 20, float(np.log(max(p.max(), 1e-12))) + 20
    for _ in range(100):
        middle = (low + high) / 2
        mean = np.clip(rate * p / np.exp(middle), floor, 1).mean()
        low, high = (middle, high) if mean > rate else (low, middle)
    return float(f"{np.exp(high):.6g}")

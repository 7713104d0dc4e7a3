"""Simulated runs: actors and faults that take turns by chance, in simulated time, from one seed.

A world registers what can happen (:meth:`Simulation.can`) with a weight and, where it needs one, a condition. One step
draws one of the possible ones and lets it happen. The same seed gives the same run, on every machine; a failure names
the seed and what happened last, so that it can be run again alone::

    simulation = Simulation(seed=7)
    simulation.can("publish", 20, world.publish)
    simulation.can("crash", 1, world.crash, when=lambda: world.crashes < 10)
    simulation.run(200)
    simulation.do("settle", world.settle)
    assert simulation.happened["crash"] > 0
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

#: what is told of a run that failed
_LAST_STEPS = 12


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    weight: float
    happen: Callable[[], object]
    when: Callable[[], bool]


@dataclass
class Simulation:
    """One run. Worlds take their chance from ``rng`` and their time from ``now_ms``, and from nowhere else."""

    seed: int
    now_ms: int = 1_000_000
    #: a step takes this long at most, in simulated time
    max_step_ms: int = 1_500
    rng: np.random.Generator = field(init=False)
    #: steps by name, and whatever else a world counts
    happened: Counter[str] = field(default_factory=Counter)
    _events: list[_Event] = field(default_factory=list)
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_STEPS))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def can(
        self, name: str, weight: float, happen: Callable[[], object], *, when: Callable[[], bool] = lambda: True
    ) -> None:
        """Registers what can happen.

        :param weight: how often, beside the weights of the others.
        :param when: whether it is possible now.
        """
        self._events.append(_Event(name, weight, happen, when))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def step(self) -> None:
        """Lets one of the possible events happen."""
        self.now_ms += int(self.rng.integers(0, self.max_step_ms))
        possible = [event for event in self._events if event.when()]
        weights = np.array([event.weight for event in possible])
        event = possible[int(self.rng.choice(len(possible), p=weights / weights.sum()))]
        self.do(event.name, event.happen)

    def run(self, steps: int) -> None:
        """That many steps."""
        for _ in range(steps):
            self.step()

    def do(self, name: str, happen: Callable[[], object]) -> None:
        """Lets something happen that is not left to chance, such as the end of a run; it counts as a step."""
        self.happened[name] += 1
        self._last.append(f"{self.now_ms} {name}")
        try:
            happen()
        except BaseException as error:
            error.add_note(f"seed {self.seed}, after {', '.join(self._last)}")
            raise

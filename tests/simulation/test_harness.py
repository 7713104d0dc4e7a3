"""The harness itself: runs repeat by their seed, conditions hold, failures name the seed."""

from __future__ import annotations

import pytest

from tests.simulation.harness import Simulation


def trace(seed: int) -> list[tuple[str, int, float]]:
    simulation, seen = Simulation(seed), []
    for name, weight in (("often", 9), ("rarely", 1)):
        simulation.can(name, weight, lambda name=name: seen.append((name, simulation.now_ms, simulation.rng.random())))  # type: ignore[misc]
    simulation.run(50)
    return seen


def test_a_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert trace(3) == trace(3)
    assert trace(3) != trace(4)


def test_weights_say_how_often() -> None:
    names = [name for seed in range(20) for name, _, _ in trace(seed)]
    assert 800 < names.count("often") < 970


def test_what_is_not_possible_does_not_happen() -> None:
    simulation = Simulation(0)
    left = [3]
    simulation.can("wait", 1, lambda: None)
    simulation.can("use", 100, lambda: left.__setitem__(0, left[0] - 1), when=lambda: left[0] > 0)
    simulation.run(40)
    assert left == [0]
    assert simulation.happened == {"use": 3, "wait": 37}


def test_a_failure_names_the_seed_and_the_last_steps() -> None:
    simulation = Simulation(11)
    simulation.can("fail", 1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        simulation.step()
    assert "seed 11" in caught.value.__notes__[0]
    assert "fail" in caught.value.__notes__[0]


def test_what_is_done_at_the_end_is_told_of_too() -> None:
    simulation = Simulation(12)
    simulation.can("wait", 1, lambda: None)
    simulation.run(2)
    with pytest.raises(ZeroDivisionError) as caught:
        simulation.do("settle", lambda: 1 / 0)
    assert simulation.happened == {"wait": 2, "settle": 1}
    assert "wait" in caught.value.__notes__[0]
    assert caught.value.__notes__[0].endswith("settle")

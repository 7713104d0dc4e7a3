"""The joiner over faulty input and crashes: see :class:`JoinerWorld` for what happens and what must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.harness import Simulation
from tests.simulation.joiner_world import JoinerWorld

pytestmark = pytest.mark.simulation

STEPS = 600


def test_the_rows_are_those_of_the_oracle_and_of_the_plain_join(seed: int, tmp_path: Path) -> None:
    simulation = Simulation(seed)
    world = JoinerWorld(simulation, tmp_path)
    simulation.run(STEPS)
    simulation.do("finish", world.finish)

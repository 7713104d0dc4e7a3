"""Publisher, log, store and replicas together: see :class:`SyncWorld` for what happens and what must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.harness import Simulation
from tests.simulation.sync_world import SyncWorld

pytestmark = pytest.mark.simulation

STEPS = 120


def test_replicas_have_the_trainers_rows(seed: int, tmp_path: Path) -> None:
    simulation = Simulation(seed)
    world = SyncWorld(simulation, tmp_path)
    simulation.run(STEPS)
    simulation.do("settle", world.settle)

"""The dense optimiser gives the numbers of torch.optim.Adam, and goes on from its state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from rillet.trainer.adam import Adam

SHAPES = ((4, 3), (4,), ())


def parameters() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"p{i}": torch.nn.Parameter(torch.randn(shape)) for i, shape in enumerate(SHAPES)}


def set_gradients(named: dict[str, torch.Tensor], step: int) -> None:
    """The second parameter has a gradient in every other step only."""
    for index, parameter in enumerate(named.values()):
        torch.manual_seed(100 * step + index)
        parameter.grad = None if index == 1 and step % 2 else torch.randn_like(parameter)


def test_steps_are_those_of_torch_bit_for_bit() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, reference = Adam(ours.items(), 0.01), torch.optim.Adam(theirs.values(), lr=0.01, fused=True)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_goes_on_from_its_state() -> None:
    whole, parts = parameters(), parameters()
    optimizer, first = Adam(whole.items(), 0.01), Adam(parts.items(), 0.01)
    saved: dict[str, np.ndarray] = {}
    for step in range(6):
        set_gradients(whole, step)
        optimizer.step()
    for step in range(6):
        if step == 3:
            saved = {name: array.copy() for name, array in first.state().items()}
            first = Adam(parts.items(), 0.01)
            first.load_state(saved)
        set_gradients(parts, step)
        first.step()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert set(saved) == {f"p{i}.{key}" for i in range(3) for key in ("exp_avg", "exp_avg_sq", "step")}


def test_a_state_without_a_parameter_is_refused() -> None:
    optimizer = Adam(parameters().items(), 0.01)
    with pytest.raises(KeyError):
        optimizer.load_state({})


def test_making_one_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch; from rillet.trainer.adam import Adam;"
        "Adam([('p', torch.zeros(2, requires_grad=True))], 0.1).step(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

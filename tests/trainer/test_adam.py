"""The dense optimiser gives the numbers of torch.optim.Adam, and goes on from its state."""

from __future__ import annotations

import sys
from collections.abc import Callable

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


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_steps_are_those_of_torch_bit_for_bit(amsgrad: bool, weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = Adam(ours.items(), 0.01, weight_decay=weight_decay, amsgrad=amsgrad)
    # Vectors and scalars do not decay.
    groups = [
        {"params": [p for p in theirs.values() if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in theirs.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, fused=True, amsgrad=amsgrad)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_factor_is_another_learning_rate_for_one_step() -> None:
    factored, other = parameters(), parameters()
    for named, optimizer, factor in (
        (factored, Adam(factored.items(), 0.04), 0.25),
        (other, Adam(other.items(), 0.01), 1.0),
    ):
        set_gradients(named, 0)
        optimizer.step(factor)
    assert all(torch.equal(factored[name], other[name]) for name in factored)


def test_steps_do_not_get_smaller_on_an_endless_stream() -> None:
    # One that goes on for long after its moments have settled: what has come before must not count any more.
    moved = []
    for amsgrad in (False, True):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = Adam([("weight", weight)], 0.01, amsgrad=amsgrad)
        for step in range(6_000):
            weight.grad = torch.full((1,), 1.0 if step < 1_000 else 0.1)
            before = weight.item()
            optimizer.step()
        moved.append(before - weight.item())
    assert moved[0] > 0.005
    assert moved[1] < 0.2 * moved[0]  # AMSGrad remembers the largest for good


@pytest.mark.parametrize("amsgrad", [False, True])
def test_it_goes_on_from_its_state(amsgrad: bool) -> None:
    whole, parts = parameters(), parameters()
    optimizer, first = Adam(whole.items(), 0.01, amsgrad=amsgrad), Adam(parts.items(), 0.01, amsgrad=amsgrad)
    saved: dict[str, np.ndarray] = {}
    for step in range(6):
        set_gradients(whole, step)
        optimizer.step()
    for step in range(6):
        if step == 3:
            saved = {name: array.copy() for name, array in first.state().items()}
            first = Adam(parts.items(), 0.01, amsgrad=amsgrad)
            first.load_state(saved)
        set_gradients(parts, step)
        first.step()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    keys = ["exp_avg", "exp_avg_sq", "step", *(["max_exp_avg_sq"] if amsgrad else [])]
    assert set(saved) == {f"p{i}.{key}" for i in range(3) for key in keys}


def test_a_state_without_a_parameter_is_refused() -> None:
    optimizer = Adam(parameters().items(), 0.01)
    with pytest.raises(KeyError):
        optimizer.load_state({})


def calls_what_loads_the_compiler(action: Callable[[], object]) -> bool:
    """Whether torch's wrapper is called that imports the compiler at its first call, loaded already or not."""
    files = set()
    sys.setprofile(lambda frame, *_: files.add(frame.f_code.co_filename))
    try:
        action()
    finally:
        sys.setprofile(None)
    return torch._compile.__file__ in files


def test_making_one_does_not_load_the_compiler() -> None:
    named = parameters()
    set_gradients(named, 0)
    assert calls_what_loads_the_compiler(lambda: torch.optim.Adam(named.values()))
    assert not calls_what_loads_the_compiler(lambda: Adam(named.items(), 0.1).step())

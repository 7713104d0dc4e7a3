"""The bias' optimiser: Adagrad with squares that halve with event time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rillet.trainer.bias import BiasAdagrad

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


def follow(
    bias: torch.Tensor, optimizer: BiasAdagrad, gradients: list[float], *, first_ms: int = START_MS, gap_ms: int = 1000
) -> list[float]:
    """The value of a bias after each of the steps."""
    values = []
    for step, gradient in enumerate(gradients):
        bias.grad = torch.full_like(bias, gradient)
        optimizer.step(first_ms + step * gap_ms)
        values.append(bias.detach().flatten()[0].item())
    return values


def new_bias() -> torch.Tensor:
    return torch.nn.Parameter(torch.full((2,), -3.0))


@pytest.mark.parametrize("half_life_s", [0.0, 3600.0])
def test_matches_its_formula(half_life_s: float) -> None:
    bias = new_bias()
    gradients = np.random.default_rng(0).standard_normal(50).tolist()
    values = follow(bias, BiasAdagrad(bias, 0.5, half_life_s), gradients, gap_ms=600_000)
    expected, squares = -3.0, 0.0
    for gradient, value in zip(gradients, values, strict=True):
        squares = squares * (0.5 ** (600 / half_life_s) if half_life_s else 1.0) + gradient**2
        expected -= 0.5 * gradient / squares**0.5
        assert value == pytest.approx(expected, rel=1e-5)


def test_after_months_a_bias_still_follows_the_rate_of_its_task() -> None:
    # Steps so near in time that what is forgotten between two is less than float32 can tell from 1.
    moved = {}
    for half_life_s in (0.0, 600.0):
        bias = new_bias()
        optimizer = BiasAdagrad(bias, 0.5, half_life_s)
        alternating = [1.0 - 2 * (step % 2) for step in range(1_000)]
        for part in range(3):
            follow(bias, optimizer, alternating, first_ms=START_MS + part * 40_000, gap_ms=10)
        before = bias[0].item()
        moved[half_life_s] = before - follow(bias, optimizer, [1.0], first_ms=START_MS + 100 * HOUR_MS)[0]
    assert moved[0.0] < 0.01
    assert moved[600.0] == pytest.approx(0.5, rel=0.01)


def test_a_bias_without_gradient_stays() -> None:
    bias = new_bias()
    optimizer = BiasAdagrad(bias, 0.5, 3600.0)
    optimizer.step(START_MS)
    follow(bias, optimizer, [0.0])
    assert bias.tolist() == [-3.0, -3.0]


def test_a_time_that_goes_back_counts_as_the_newest() -> None:
    values = []
    for third_ms in (START_MS, START_MS + HOUR_MS):
        bias = new_bias()
        optimizer = BiasAdagrad(bias, 0.5, 3600.0)
        for at_ms in (START_MS, START_MS + HOUR_MS, third_ms):
            follow(bias, optimizer, [1.0], first_ms=at_ms)
        values.append(bias[0].item())
    assert values[0] == values[1]


def test_it_goes_on_from_its_state() -> None:
    whole, parts = new_bias(), new_bias()
    optimizer, first = BiasAdagrad(whole, 0.5, 3600.0), BiasAdagrad(parts, 0.5, 3600.0)
    follow(whole, optimizer, [1.0, 2.0, -1.0, 0.5], gap_ms=HOUR_MS)
    follow(parts, first, [1.0, 2.0], gap_ms=HOUR_MS)
    saved = {name: array.copy() for name, array in first.state().items()}
    second = BiasAdagrad(parts, 0.5, 3600.0)
    second.load_state(saved)
    follow(parts, second, [-1.0, 0.5], first_ms=START_MS + 2 * HOUR_MS, gap_ms=HOUR_MS)
    assert torch.equal(whole, parts)

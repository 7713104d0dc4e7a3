"""Adagrad for the biases of a model, with squares that halve with event time.

From a low initial rate to a task's own takes Adam thousands of steps; Adagrad's first ones are large. The squares decay, so
that a bias still follows a task's rate after months. By hand, since torch's optimiser takes a tenth of a step's time for
these few numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rillet.schemas import NO_TIME_MS
from rillet.trainer.adam import Arrays

#: keeps a bias without gradient where it is
_EPS = 1e-10


class BiasAdagrad:
    """One step after another of one parameter."""

    def __init__(self, bias: Tensor, learning_rate: float, half_life_s: float) -> None:
        """
        :param half_life_s: event time in which half of the squares is forgotten; 0 = never.
        """
        self._bias = bias
        self._learning_rate = learning_rate
        self._half_life_ms = half_life_s * 1000
        # float64: what is forgotten from one batch to the next is too small a share for float32.
        self._squares = torch.zeros_like(bias, dtype=torch.float64, requires_grad=False)
        self._newest_ms = NO_TIME_MS

    @torch.no_grad()
    def step(self, now_ms: int) -> None:
        """squares += g*g; bias -= lr * g / sqrt(squares). A bias without gradient stays.

        :param now_ms: event time; one before that of an earlier step counts as that one's.
        """
        if self._bias.grad is None:
            return
        now_ms = max(now_ms, self._newest_ms)
        if self._half_life_ms and self._newest_ms != NO_TIME_MS:
            self._squares.mul_(2.0 ** ((self._newest_ms - now_ms) / self._half_life_ms))
        self._newest_ms = now_ms
        gradient = self._bias.grad.double()
        self._squares.addcmul_(gradient, gradient)
        self._bias.sub_(gradient.div_(self._squares.sqrt().add_(_EPS)).mul_(self._learning_rate).float())

    def state(self) -> Arrays:
        """``bias.squares`` float64 and ``bias.newest_ms`` int64."""
        return {"bias.squares": self._squares.numpy(), "bias.newest_ms": np.array(self._newest_ms, np.int64)}

    def load_state(self, arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> None:
        """Goes on from :meth:`state`; learning rate and half-life stay as configured."""
        np.copyto(self._squares.numpy(), arrays["bias.squares"])
        self._newest_ms = int(arrays["bias.newest_ms"])

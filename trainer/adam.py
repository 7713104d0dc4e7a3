"""Adam for the dense part of a model (Kingma and Ba 2015), by PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.adam import adam

Arrays = dict[str, npt.NDArray[np.generic]]


class Adam:
    """One step after another over named parameters; those without gradient are left as they are.

    The numbers are those of ``torch.optim.Adam``. That class loads PyTorch's compiler, which takes over a second, and
    examines every parameter at every step, which takes longer than the step of a small model.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self._parameters = dict(parameters)
        self._mean = [torch.zeros_like(p, requires_grad=False) for p in self._parameters.values()]
        self._squares = [torch.zeros_like(p, requires_grad=False) for p in self._parameters.values()]
        self._steps = [torch.zeros((), dtype=torch.float32) for _ in self._parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        moved = [entry for entry in self._entries() if entry[0].grad is not None]
        if not moved:
            return
        parameters, mean, squares, steps = map(list, zip(*moved, strict=True))
        adam(
            parameters,
            [parameter.grad for parameter in parameters],
            mean,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> Arrays:
        """Moments and step counts by ``name.exp_avg``, ``name.exp_avg_sq`` and ``name.step``."""
        return {
            f"{name}.{key}": tensor.numpy()
            for name, (_, *tensors) in zip(self._parameters, self._entries(), strict=True)
            for key, tensor in zip(("exp_avg", "exp_avg_sq", "step"), tensors, strict=True)
        }

    def load_state(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Goes on from :meth:`state`; the learning rate stays as configured."""
        for name, array in self.state().items():
            np.copyto(array, arrays[name])

    def _entries(self) -> Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]:
        return zip(self._parameters.values(), self._mean, self._squares, self._steps, strict=True)

"""Adam for the dense part of a model (Kingma and Ba 2015), by PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.adam import adam

Arrays = dict[str, npt.NDArray[np.generic]]


class Adam:
    """One step after another over named parameters; those without gradient are left as they are.

    Its means are of the last thousand steps or so (beta2 = 0.999), so its steps do not die out on an endless stream; with
    AMSGrad they get smaller with every larger gradient, and never larger again. Weight decay is decoupled (Loshchilov and
    Hutter 2019) and spares vectors and scalars, which are scales and offsets rather than weights.

    The numbers are those of ``torch.optim.Adam`` and ``AdamW``. Those load PyTorch's compiler, which takes over a second,
    and examine every parameter at every step, which takes longer than the step of a small model.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._amsgrad = amsgrad
        self._parameters = dict(parameters)
        #: tensors of each parameter, by their names in the state
        self._slots = {
            name: {key: torch.zeros_like(p, requires_grad=False) for key in self._moments}
            | {"step": torch.zeros((), dtype=torch.float32)}
            for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Moves every parameter that has a gradient.

        :param factor: of the learning rate.
        """
        moved = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        if not self._weight_decay:
            self._step(moved, factor, 0.0)
            return
        matrices = [name for name in moved if self._parameters[name].dim() > 1]
        self._step(matrices, factor, self._weight_decay)
        self._step([name for name in moved if name not in matrices], factor, 0.0)

    @property
    def _moments(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self._amsgrad else ()))

    def _step(self, names: list[str], factor: float, weight_decay: float) -> None:
        if not names:
            return
        parameters = [self._parameters[name] for name in names]
        mean, squares, steps = ([self._slots[name][key] for name in names] for key in ("exp_avg", "exp_avg_sq", "step"))
        adam(
            parameters,
            [cast(Tensor, parameter.grad) for parameter in parameters],
            mean,
            squares,
            [self._slots[name]["max_exp_avg_sq"] for name in names] if self._amsgrad else [],
            steps,
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=self._amsgrad,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate * factor,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> Arrays:
        """Moments and step counts by ``name.exp_avg``, ``name.exp_avg_sq``, ``name.step``, and ``name.max_exp_avg_sq``."""
        return {f"{name}.{key}": tensor.numpy() for name, slots in self._slots.items() for key, tensor in slots.items()}

    def load_state(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Goes on from :meth:`state`; the learning rate stays as configured."""
        for name, array in self.state().items():
            np.copyto(array, arrays[name])

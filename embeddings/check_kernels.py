"""Kernels of the argument checks: one vectorised pass each, no temporaries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types

from rillet.embeddings.compiled import IN_FLOAT32S_2D, IN_INT64S, INT64, kernel

#: 2**8, the largest weight of forward decay, times 2**12 steps
_ROOM = np.float32(2**20)


@kernel(INT64, IN_INT64S)
def lowest(values: Any) -> Any:
    """The lowest value, 0 where none is below 0."""
    low = 0
    for i in range(len(values)):
        low = min(low, values[i])
    return low


@kernel(types.boolean, IN_INT64S, INT64, INT64)
def within(values: Any, low: Any, high: Any) -> Any:
    """Whether all values lie in [low, high)."""
    good = True
    for i in range(len(values)):
        good &= (values[i] >= low) & (values[i] < high)
    return good


@kernel(types.boolean, IN_FLOAT32S_2D)
def squares_have_room(values: Any) -> Any:
    """Whether the square of every value is finite, and remains so in a sum of thousands and with the weights of decay."""
    good = True
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            good &= values[i, j] * values[i, j] * _ROOM < float32(np.inf)
    return good

"""Kernels of the argument checks: one vectorised pass each, no temporaries."""

from __future__ import annotations

from typing import Any

from numba import types

from rillet.embeddings.compiled import IN_INT64S, INT64, kernel


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

"""Names for the NumPy arrays of the records and of everything that works on them, and gathering by ranges.

Shapes stand in the docstrings of what takes and returns them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
UInt8s = npt.NDArray[np.uint8]
UInt16s = npt.NDArray[np.uint16]
UInt64s = npt.NDArray[np.uint64]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]


def range_starts(counts: Int64s) -> Int64s:
    """Where each of consecutive ranges of ``counts`` elements begins, int64[n].

    >>> range_starts(np.array([2, 0, 3])).tolist()
    [0, 2, 2]
    """
    starts: Int64s = np.cumsum(counts) - counts
    return starts


def range_indices(starts: Int64s, counts: Int64s) -> Int64s:
    """Indices ``starts[i] .. starts[i] + counts[i] - 1`` for every i, one range after the other: int64[sum(counts)].

    >>> range_indices(np.array([7, 3]), np.array([2, 3])).tolist()
    [7, 8, 3, 4, 5]
    """
    indices: Int64s = np.repeat(starts - range_starts(counts), counts) + np.arange(int(counts.sum()))
    return indices

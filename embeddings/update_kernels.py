"""Kernel that sums the gradients of each row over its duplicates, before ``step_kernels`` steps each row once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from rillet.embeddings.compiled import (
    FLOAT32S_2D,
    IN_FLOAT32S_2D,
    IN_INT64S,
    IN_UINT16S,
    INT64,
    INT64S,
    kernel,
)
from rillet.embeddings.row_kernels import AHEAD, BATCH, FID, prefetch_marks, row_marks

#: bits of a row's BATCH mark that hold its place in the batch; the number of the call lies above them
PLACE_BITS = 24
_PLACE_MASK = (1 << PLACE_BITS) - 1


@kernel(INT64, IN_INT64S, IN_UINT16S, IN_FLOAT32S_2D, IN_INT64S, INT64, INT64, INT64S, FLOAT32S_2D)
def sum_by_row(rows: Any, lengths: Any, grad: Any, marks_at: Any, shift: Any, call: Any, unique: Any, sums: Any) -> Any:
    """Lists the distinct rows in order of first sight and sums the gradient of each; returns how many.

    Empty ``lengths`` means one row per segment; else each row gets its segment's gradient divided by the length.
    """
    dim = grad.shape[1]
    pooled = len(lengths) > 0
    count = 0
    start = np.int64(0)
    for segment in range(len(grad)):
        end = start + (np.int64(lengths[segment]) if pooled else np.int64(1))
        count_here = end - start if end > start else np.int64(1)
        share = float32(1) / float32(count_here)
        for i in range(start, end):
            row = rows[i]
            if i + AHEAD < len(rows) and rows[i + AHEAD] >= 0:
                prefetch_marks(marks_at, rows[i + AHEAD], shift)
            if row < 0:
                continue
            marks = row_marks(marks_at, row, shift)
            # The fid of a row can have been deleted since it was found; its gradient then counts for nothing.
            if marks[FID] != 0:
                place = marks[BATCH] & _PLACE_MASK
                if marks[BATCH] >> PLACE_BITS != call:
                    place = count
                    marks[BATCH] = (call << PLACE_BITS) | place
                    unique[place] = row
                    count += 1
                    for column in range(dim):
                        sums[place, column] = grad[segment, column] * share
                else:
                    for column in range(dim):
                        sums[place, column] += grad[segment, column] * share
        start = end
    return count

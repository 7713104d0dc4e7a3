"""Kernels of a training step: sum the gradients of each row over its duplicates, then step each row once.

Formulas: Adagrad (Duchi et al., 2011) and Adam (Kingma and Ba, 2015) applied lazily: a row that is not in the
batch keeps its moments and its own step count, so its bias correction is exact for what it has seen.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import float32

from rillet.embeddings.compiled import (
    FLOAT32S_2D,
    FLOAT64,
    IN_FLOAT32S,
    IN_FLOAT32S_2D,
    IN_INT64S,
    IN_UINT16S,
    INT64,
    INT64S,
    kernel,
)
from rillet.embeddings.row_kernels import AHEAD, BATCH, FID, prefetch_marks, prefetch_row, row_floats, row_marks

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


@kernel(INT64, IN_INT64S, IN_FLOAT32S_2D, IN_INT64S, INT64, FLOAT64, FLOAT64)
def adagrad(rows: Any, grad: Any, rows_at: Any, shift: Any, learning_rate: Any, eps: Any) -> Any:
    """acc += g*g; w -= lr * g / (sqrt(acc) + eps). Row: w[dim], acc[dim]."""
    dim = grad.shape[1]
    rate = float32(learning_rate)
    small = float32(eps)
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, 2 * dim, 2 * dim)
        weight = row_floats(rows_at, rows[i], shift, 2 * dim, 0, dim)
        total = row_floats(rows_at, rows[i], shift, 2 * dim, dim, dim)
        for column in range(dim):
            g = grad[i, column]
            acc = total[column] + g * g
            total[column] = acc
            weight[column] -= rate * g / (sqrt(acc) + small)
    return len(rows)


@kernel(INT64, IN_INT64S, IN_FLOAT32S_2D, IN_INT64S, INT64, IN_FLOAT32S, IN_FLOAT32S, FLOAT64, FLOAT64, FLOAT64)
def lazy_adam(
    rows: Any,
    grad: Any,
    rows_at: Any,
    shift: Any,
    rates: Any,
    root_scales: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
) -> Any:
    """Adam with the row's own step count t. Row: w[dim], m[dim], v[dim], t.

    m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g*g; w -= rates[t] * m / (sqrt(v) * root_scales[t] + eps), with
    ``rates`` and ``root_scales`` of :func:`adam_corrections`, whose last entry holds for all later steps.
    """
    dim = grad.shape[1]
    width = 3 * dim + 1
    b1 = float32(beta1)
    c1 = float32(1 - beta1)
    b2 = float32(beta2)
    c2 = float32(1 - beta2)
    small = float32(eps)
    last = len(rates) - 1
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, width, width)
        weight = row_floats(rows_at, rows[i], shift, width, 0, dim)
        mean = row_floats(rows_at, rows[i], shift, width, dim, dim)
        square = row_floats(rows_at, rows[i], shift, width, 2 * dim, dim)
        step = row_floats(rows_at, rows[i], shift, width, 3 * dim, 1)
        # A float32 counts exactly up to 2**24 and stays there, long after both corrections have become 1.
        step[0] += float32(1)
        corrected = min(np.int64(step[0]), last)
        rate = rates[corrected]
        root_scale = root_scales[corrected]
        # Two loops: with four arrays in one loop the compiler cannot prove that they do not overlap, and does not vectorise.
        for column in range(dim):
            g = grad[i, column]
            mean[column] = b1 * mean[column] + c1 * g
            square[column] = b2 * square[column] + c2 * g * g
        for column in range(dim):
            weight[column] -= rate * mean[column] / (sqrt(square[column]) * root_scale + small)
    return len(rows)

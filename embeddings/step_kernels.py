"""Kernels of the optimisers: one step for each of a batch's distinct rows, with the gradient of the row.

Adagrad (Duchi et al., 2011), Adam (Kingma and Ba, 2015), AMSGrad (Reddi et al., 2018), decoupled weight decay
(Loshchilov and Hutter, 2019), FTRL-proximal (McMahan et al., 2013). All are lazy: a row that is not in the batch keeps
its weights and its state. Sums that decay are stored with the weights of forward decay, see ``decay``.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numba import float32

from rillet.embeddings.compiled import FLOAT64, IN_FLOAT32S, IN_FLOAT32S_2D, IN_INT64S, INT64, kernel
from rillet.embeddings.row_kernels import AHEAD, prefetch_row, row_floats

#: what an infinite sum of squares is taken for when sums are scaled: it would never decay
_MOST = np.float32(3e38)


@kernel(INT64, IN_INT64S, IN_FLOAT32S_2D, IN_INT64S, INT64, FLOAT64, FLOAT64, FLOAT64, FLOAT64, FLOAT64)
def adagrad(
    rows: Any,
    grad: Any,
    rows_at: Any,
    shift: Any,
    learning_rate: Any,
    eps: Any,
    initial: Any,
    forward: Any,
    weight_decay: Any,
) -> Any:
    """s += forward*g*g; w -= lr*weight_decay*w + lr * g / (sqrt(initial + s/forward) + eps). Row: w[dim], s[dim].

    Computed in terms of sqrt(forward)*g, so that decay costs one multiplication.
    """
    dim = grad.shape[1]
    up = sqrt(forward)
    rate, scale_up, small, start = float32(learning_rate), float32(up), float32(up * eps), float32(forward * initial)
    kept = float32(1 - learning_rate * weight_decay)
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, 2 * dim, 2 * dim)
        weight = row_floats(rows_at, rows[i], shift, 2 * dim, 0, dim)
        squares = row_floats(rows_at, rows[i], shift, 2 * dim, dim, dim)
        if kept != 1:
            for column in range(dim):
                weight[column] *= kept
        for column in range(dim):
            g = scale_up * grad[i, column]
            total = squares[column] + g * g
            squares[column] = total
            weight[column] -= rate * g / (sqrt(start + total) + small)
    return len(rows)


@kernel(INT64, IN_INT64S, IN_FLOAT32S_2D, IN_INT64S, INT64, FLOAT64, FLOAT64, FLOAT64, FLOAT64, FLOAT64, FLOAT64)
def ftrl(
    rows: Any,
    grad: Any,
    rows_at: Any,
    shift: Any,
    learning_rate: Any,
    eps: Any,
    initial: Any,
    forward: Any,
    l1: Any,
    l2: Any,
) -> Any:
    """FTRL-proximal per coordinate. Row: w[dim], s[dim], z[dim], where s is that of :func:`adagrad`.

    In the paper a row is (z, n), n = initial + s/forward, q = (sqrt(n) + eps) / lr + l2, and the weight follows from it:
    w = 0 where abs(z) <= l1, else -(z - sign(z)*l1) / q. Here w is what is read, and z = -(w*q + sign(w)*l1) follows from
    it; z is stored (else 0) only where w = 0. An initial w that is not 0 is thus the centre of the first step. Put in,
    the paper's z += g - (change of q)*w becomes w -= g / q until w changes its sign.
    """
    dim = grad.shape[1]
    width = 3 * dim
    inverse, small, start = float32(1 / learning_rate), float32(eps), float32(initial)
    up, down = float32(forward), float32(1 / forward)
    threshold, ridge, zero = float32(l1), float32(l2), float32(0)
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, width, width)
        weight = row_floats(rows_at, rows[i], shift, width, 0, dim)
        squares = row_floats(rows_at, rows[i], shift, width, dim, dim)
        stored = row_floats(rows_at, rows[i], shift, width, 2 * dim, dim)
        for column in range(dim):
            g = grad[i, column]
            squares[column] += up * g * g
        # Loops of their own: with all arrays in one, the compiler cannot prove that they do not overlap.
        for column in range(dim):
            g = grad[i, column]
            w = weight[column]
            rest = stored[column]
            q = (sqrt(start + down * squares[column]) + small) * inverse + ridge
            move = float32(1) / q
            stepped = w - g * move
            before = threshold if w > zero else -threshold
            z = (rest if w == zero else -(w * q + before)) + g
            beyond = threshold if z > zero else -threshold
            outside = abs(z) > threshold
            shrunk = (beyond - z) * move if outside else zero
            stored[column] = zero if outside else z
            weight[column] = stepped if w * stepped > zero else shrunk
    return len(rows)


@kernel(
    INT64,
    IN_INT64S,
    IN_FLOAT32S_2D,
    IN_INT64S,
    INT64,
    IN_FLOAT32S,
    IN_FLOAT32S,
    FLOAT64,
    FLOAT64,
    FLOAT64,
    INT64,
    FLOAT64,
)
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
    amsgrad: Any,
    weight_decay: Any,
) -> Any:
    """Adam with the row's own step count t. Row: w[dim], m[dim], v[dim], with ``amsgrad`` largest[dim], t.

    m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g*g; w -= lr*weight_decay*w + rates[t] * m / (sqrt(v) * root_scales[t] + eps),
    with ``rates`` and ``root_scales`` of ``adam_corrections``, whose last entry holds for all later steps. With
    ``amsgrad`` largest = max(largest, v) stands for v in the step.
    """
    dim = grad.shape[1]
    width = (4 if amsgrad else 3) * dim + 1
    b1, c1 = float32(beta1), float32(1 - beta1)
    b2, c2 = float32(beta2), float32(1 - beta2)
    small = float32(eps)
    last = len(rates) - 1
    kept = float32(1 - rates[last] * weight_decay)
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, width, width)
        weight = row_floats(rows_at, rows[i], shift, width, 0, dim)
        mean = row_floats(rows_at, rows[i], shift, width, dim, dim)
        square = row_floats(rows_at, rows[i], shift, width, 2 * dim, dim)
        step = row_floats(rows_at, rows[i], shift, width, width - 1, 1)
        # A float32 counts exactly up to 2**24 and stays there, long after both corrections have become 1.
        step[0] += float32(1)
        corrected = min(np.int64(step[0]), last)
        rate = rates[corrected]
        root_scale = root_scales[corrected]
        # Several loops: with four arrays in one the compiler cannot prove that they do not overlap, and does not vectorise.
        for column in range(dim):
            g = grad[i, column]
            mean[column] = b1 * mean[column] + c1 * g
            square[column] = b2 * square[column] + c2 * g * g
        if amsgrad:
            largest = row_floats(rows_at, rows[i], shift, width, 3 * dim, dim)
            for column in range(dim):
                largest[column] = max(largest[column], square[column])
            square = largest
        for column in range(dim):
            weight[column] = kept * weight[column] - rate * mean[column] / (sqrt(square[column]) * root_scale + small)
    return len(rows)


@kernel(INT64, INT64, IN_INT64S, INT64, INT64, INT64, INT64, FLOAT64)
def scale(row_end: Any, rows_at: Any, shift: Any, width: Any, first: Any, count: Any, factor: Any) -> Any:
    """Multiplies ``count`` sums from ``first`` on of all rows below ``row_end``; an infinite one becomes finite."""
    by = float32(factor)
    for row in range(row_end):
        floats = row_floats(rows_at, row, shift, width, first, count)
        for column in range(count):
            floats[column] = min(floats[column], _MOST) * by
    return row_end

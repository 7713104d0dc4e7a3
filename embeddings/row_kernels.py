"""Kernels that read and write whole rows: initialise, gather with mean pooling, copy out and in, free.

Rows lie in chunks and are found by number (see ``slabs``); -1 stands for an unknown fid and reads as zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, uint64

from rillet.embeddings.compiled import (
    FLOAT32,
    FLOAT32S_2D,
    IN_FLOAT32S_2D,
    IN_INT64S,
    IN_UINT16S,
    INT64,
    INT64S,
    float32s_at,
    helper,
    int64s_at,
    kernel,
    prefetch,
)
from rillet.embeddings.map_kernels import mix

#: int64 fields per row, stored apart from its floats. FID: owner, 0 when free. BATCH: call and place of the last
#: de-duplication that met the row. TOUCHED: round of its last change, see ``touched``.
FID, BATCH, TOUCHED = range(3)
MARKS = 3

#: how many rows ahead of the current one are prefetched, so that a pass over scattered rows does not wait for each
AHEAD = 12


@helper
def row_floats(rows_at: Any, row: Any, shift: Any, width: Any, first: Any, count: Any) -> Any:
    """float32[count]: part of one row's ``width`` floats. Parts have arrays of their own, so that loops over
    them index from 0 and vectorise."""
    within = row & ((np.int64(1) << shift) - 1)
    return float32s_at(rows_at[row >> shift] + (within * width + first) * 4, count)


@helper
def prefetch_row(rows_at: Any, row: Any, shift: Any, width: Any, count: Any) -> None:
    """Prefetches the first ``count`` floats of a row."""
    within = row & ((np.int64(1) << shift) - 1)
    start = rows_at[row >> shift] + within * width * 4
    for address in range(start & ~np.int64(63), start + count * 4, 64):
        prefetch(address)


@helper
def prefetch_marks(marks_at: Any, row: Any, shift: Any) -> None:
    """Prefetches the marks of a row."""
    prefetch(marks_at[row >> shift] + (row & ((np.int64(1) << shift) - 1)) * (MARKS * 8))


@helper
def row_marks(marks_at: Any, row: Any, shift: Any) -> Any:
    """int64[MARKS]: one row's marks."""
    within = row & ((np.int64(1) << shift) - 1)
    return int64s_at(marks_at[row >> shift] + within * (MARKS * 8), MARKS)


@kernel(INT64, IN_INT64S, IN_INT64S, IN_INT64S, IN_INT64S, IN_INT64S, INT64, INT64, INT64, INT64, FLOAT32)
def initialise(
    indices: Any,
    fids: Any,
    rows: Any,
    rows_at: Any,
    marks_at: Any,
    shift: Any,
    dim: Any,
    width: Any,
    seed: Any,
    scale: Any,
) -> Any:
    """Fresh rows for ``fids[indices]``: column 0 zero, columns 1.. uniform by hash, all slots 0."""
    seed_hash = mix(seed)
    for k in range(len(indices)):
        i = indices[k]
        marks = row_marks(marks_at, rows[i], shift)
        marks[FID] = fids[i]
        marks[BATCH] = 0
        marks[TOUCHED] = 0
        floats = row_floats(rows_at, rows[i], shift, width, 0, width)
        fid_hash = mix(uint64(fids[i]) ^ seed_hash)
        floats[0] = float32(0)
        for column in range(1, dim):
            # 24 bits of the hash are exactly a float32, so every machine computes the same row.
            bits = mix(fid_hash + uint64(column)) >> uint64(40)
            floats[column] = (float32(float64(bits) * 2.0**-23) - float32(1)) * scale
        for column in range(dim, width):
            floats[column] = float32(0)
    return len(indices)


@kernel(INT64, IN_INT64S, IN_INT64S, INT64, INT64, FLOAT32S_2D)
def gather(rows: Any, rows_at: Any, shift: Any, width: Any, out: Any) -> Any:
    """Copies the first ``out.shape[1]`` floats of each row; zeros for -1. Returns the rows copied."""
    columns = out.shape[1]
    copied = 0
    for i in range(len(rows)):
        if i + AHEAD < len(rows) and rows[i + AHEAD] >= 0:
            prefetch_row(rows_at, rows[i + AHEAD], shift, width, columns)
        if rows[i] < 0:
            for column in range(columns):
                out[i, column] = 0
        else:
            floats = row_floats(rows_at, rows[i], shift, width, 0, columns)
            for column in range(columns):
                out[i, column] = floats[column]
            copied += 1
    return copied


@kernel(INT64, IN_INT64S, IN_UINT16S, IN_INT64S, INT64, INT64, FLOAT32S_2D)
def gather_mean(rows: Any, lengths: Any, rows_at: Any, shift: Any, width: Any, out: Any) -> Any:
    """Mean of each segment's rows, -1 counting as zeros; zeros for an empty segment."""
    columns = out.shape[1]
    start = np.int64(0)
    for segment in range(len(lengths)):
        end = start + np.int64(lengths[segment])
        empty = True
        for i in range(start, end):
            if i + AHEAD < len(rows) and rows[i + AHEAD] >= 0:
                prefetch_row(rows_at, rows[i + AHEAD], shift, width, columns)
            if rows[i] >= 0:
                floats = row_floats(rows_at, rows[i], shift, width, 0, columns)
                if empty:
                    for column in range(columns):
                        out[segment, column] = floats[column]
                else:
                    for column in range(columns):
                        out[segment, column] += floats[column]
                empty = False
        if empty:
            for column in range(columns):
                out[segment, column] = 0
        elif end - start > 1:
            count = float32(end - start)
            for column in range(columns):
                out[segment, column] /= count
        start = end
    return start


@kernel(INT64, IN_INT64S, IN_FLOAT32S_2D, IN_INT64S, INT64, INT64)
def scatter(rows: Any, values: Any, rows_at: Any, shift: Any, width: Any) -> Any:
    """Overwrites the first ``values.shape[1]`` floats of each row, in order: of a row given twice the last values stay."""
    columns = values.shape[1]
    for i in range(len(rows)):
        floats = row_floats(rows_at, rows[i], shift, width, 0, columns)
        for column in range(columns):
            floats[column] = values[i, column]
    return len(rows)


@kernel(INT64, IN_INT64S, IN_INT64S, INT64)
def release(rows: Any, marks_at: Any, shift: Any) -> Any:
    """Clears the marks of rows that were removed (-1: nothing to do)."""
    released = 0
    for i in range(len(rows)):
        if rows[i] >= 0:
            marks = row_marks(marks_at, rows[i], shift)
            marks[FID] = 0
            marks[BATCH] = 0
            marks[TOUCHED] = 0
            released += 1
    return released


@kernel(INT64, INT64, IN_INT64S, INT64, INT64S, INT64S)
def live(row_end: Any, marks_at: Any, shift: Any, fids: Any, rows: Any) -> Any:
    """Lists the fids and numbers of all rows in use; returns how many."""
    count = 0
    for row in range(row_end):
        fid = row_marks(marks_at, row, shift)[FID]
        if fid != 0:
            fids[count] = fid
            rows[count] = row
            count += 1
    return count


@kernel(INT64, IN_INT64S, IN_INT64S, INT64, INT64, INT64, INT64S, INT64)
def mark_touched(rows: Any, marks_at: Any, shift: Any, oldest_round: Any, round_: Any, keys: Any, count: Any) -> Any:
    """Appends the fids of rows not yet pending to ``keys[count:]``; returns the new count.

    A row is pending when it was last touched in ``oldest_round`` or later.
    """
    for i in range(len(rows)):
        if rows[i] >= 0:
            marks = row_marks(marks_at, rows[i], shift)
            if marks[TOUCHED] < oldest_round and marks[FID] != 0:
                marks[TOUCHED] = round_
                keys[count] = marks[FID]
                count += 1
    return count

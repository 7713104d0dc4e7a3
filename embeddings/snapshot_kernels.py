"""Kernels of snapshots: which rows of a batch have to be copied before the batch changes them, and their copies.

Copies lie in slabs of their own, numbered as they come; the marks of each lead to the one before it of the same part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint64

from rillet.embeddings.compiled import IN_INT64S, INT64, INT64S, UINT8S, kernel
from rillet.embeddings.map_kernels import mix
from rillet.embeddings.row_kernels import AHEAD, FID, prefetch_marks, prefetch_row, row_floats, row_marks

#: marks of a copy, beside FID: when the fid was last seen, and the number of the copy before of the same part, -1 for none
SEEN, BEFORE = 1, 2


@kernel(INT64, IN_INT64S, IN_INT64S, INT64, UINT8S, INT64, INT64, INT64S, INT64S, INT64S)
def choose(
    rows: Any,
    marks_at: Any,
    shift: Any,
    done: Any,
    next_part: Any,
    bits: Any,
    chosen: Any,
    fids: Any,
    parts: Any,
) -> Any:
    """Lists the rows that a snapshot still needs, each once, and sets them ``done``; returns how many.

    ``done[row]`` is not 0 where the row has been copied or is younger than the snapshot, as all rows from ``len(done)``
    on are. Rows of parts below ``next_part`` have been taken already.
    """
    count = 0
    for i in range(len(rows)):
        row = rows[i]
        if i + AHEAD < len(rows) and rows[i + AHEAD] >= 0:
            prefetch_marks(marks_at, rows[i + AHEAD], shift)
        if row < 0 or row >= len(done) or done[row] != 0:
            continue
        fid = row_marks(marks_at, row, shift)[FID]
        if fid == 0:
            continue
        part = np.int64(mix(fid) >> uint64(64 - bits))
        if part < next_part:
            continue
        done[row] = 1
        chosen[count] = row
        fids[count] = fid
        parts[count] = part
        count += 1
    return count


@kernel(
    INT64,
    IN_INT64S,
    IN_INT64S,
    IN_INT64S,
    IN_INT64S,
    IN_INT64S,
    INT64,
    INT64,
    IN_INT64S,
    IN_INT64S,
    INT64,
    INT64,
    INT64,
    INT64S,
    INT64S,
)
def copy(
    rows: Any,
    fids: Any,
    parts: Any,
    seconds: Any,
    rows_at: Any,
    shift: Any,
    width: Any,
    copies_at: Any,
    copies_marks_at: Any,
    copies_shift: Any,
    columns: Any,
    first: Any,
    newest: Any,
    counts: Any,
) -> Any:
    """Copies the first ``columns`` floats of rows, as copies ``first`` and on; returns how many.

    ``newest[part]`` is the number of the part's newest copy, -1 for none, and ``counts[part]`` how many it has.
    """
    for i in range(len(rows)):
        if i + AHEAD < len(rows):
            prefetch_row(rows_at, rows[i + AHEAD], shift, width, columns)
        number = first + i
        marks = row_marks(copies_marks_at, number, copies_shift)
        marks[FID] = fids[i]
        marks[SEEN] = seconds[i]
        marks[BEFORE] = newest[parts[i]]
        newest[parts[i]] = number
        counts[parts[i]] += 1
        source = row_floats(rows_at, rows[i], shift, width, 0, columns)
        target = row_floats(copies_at, number, copies_shift, columns, 0, columns)
        for column in range(columns):
            target[column] = source[column]
    return len(rows)


@kernel(INT64, INT64, IN_INT64S, INT64, INT64S, INT64S, INT64S)
def list_copies(newest: Any, marks_at: Any, shift: Any, numbers: Any, fids: Any, seconds: Any) -> Any:
    """Writes number, fid and last-seen second of all copies of a part, whose newest is given; returns how many."""
    count = 0
    number = newest
    while number >= 0:
        marks = row_marks(marks_at, number, shift)
        numbers[count] = number
        fids[count] = marks[FID]
        seconds[count] = marks[SEEN]
        number = marks[BEFORE]
        count += 1
    return count

"""Kernel of snapshots: which rows of a batch have to be copied before the batch changes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint64

from rillet.embeddings.compiled import IN_INT64S, INT64, INT64S, UINT8S, kernel
from rillet.embeddings.map_kernels import mix
from rillet.embeddings.row_kernels import AHEAD, FID, prefetch_marks, row_marks


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

"""Argument checks of the embedding table: dtype, shape and range, each at most one pass over the array."""

from __future__ import annotations

import numpy as np

from rillet.embeddings import check_kernels
from rillet.embeddings.errors import TableInputError
from rillet.schemas.arrays import Float32s, Int64s, UInt16s

#: stands for ``lengths`` None in kernels, so that each has one specialisation
NO_LENGTHS = np.empty(0, np.uint16)


def _describe(array: object) -> str:
    return f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__


def _is_vector(array: object, dtype: type[np.generic]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == 1 and array.flags.c_contiguous


def check_fids(fids: Int64s) -> Int64s:
    """The fids, contiguous."""
    if not isinstance(fids, np.ndarray) or fids.dtype != np.int64 or fids.ndim != 1:
        raise TableInputError(f"fids: expected int64[n], found {_describe(fids)}")
    fids = np.ascontiguousarray(fids)
    if check_kernels.lowest(fids) < 0:
        at = int(np.flatnonzero(fids < 0)[0])
        raise TableInputError(f"fids: value {at} is {fids[at]}, the reserved bit is set; a fid is never negative")
    return fids


def check_rows(rows: Int64s, row_end: int) -> None:
    """Row numbers in -1..row_end-1: anything else would be an access outside the slabs."""
    if not _is_vector(rows, np.int64):
        raise TableInputError(f"rows: expected contiguous int64[n], found {_describe(rows)}")
    if not check_kernels.within(rows, -1, row_end):
        raise TableInputError(f"rows: a number is outside -1..{row_end - 1}; pass what find or find_or_insert gave")


def check_lengths(lengths: UInt16s | None, rows: int) -> int:
    """The number of segments."""
    if lengths is None:
        return rows
    if not _is_vector(lengths, np.uint16):
        raise TableInputError(f"lengths: expected contiguous uint16[segments], found {_describe(lengths)}")
    total = int(lengths.sum(dtype=np.int64))
    if total != rows:
        raise TableInputError(f"lengths: they sum to {total}, rows has {rows}")
    return len(lengths)


def check_matrix(name: str, values: Float32s, count: int, dim: int) -> Float32s:
    """The float32[count, dim], contiguous."""
    if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape != (count, dim):
        raise TableInputError(f"{name}: expected float32[{count}, {dim}], found {_describe(values)}")
    return np.ascontiguousarray(values)


def check_out(out: Float32s | None, segments: int, dim: int) -> Float32s:
    """The array to write to."""
    if out is None:
        return np.empty((segments, dim), np.float32)
    if (
        not isinstance(out, np.ndarray)
        or out.dtype != np.float32
        or out.shape != (segments, dim)
        or not out.flags.c_contiguous
        or not out.flags.writeable
    ):
        raise TableInputError(f"out: expected writable contiguous float32[{segments}, {dim}], found {_describe(out)}")
    return out


def check_time(now_ms: int) -> int:
    """The time in seconds."""
    seconds = now_ms // 1000
    if not 0 <= seconds < 1 << 32:
        raise TableInputError(f"now_ms: {now_ms} is outside 1970..2106; milliseconds since 1970 are expected")
    return seconds

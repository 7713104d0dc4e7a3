"""Arrays as a safetensors file, piece by piece: no copy of the whole is made, and no piece holds the interpreter lock for long.

The format: the length of a JSON header, the header, and the arrays' bytes one after the other without gaps
(https://huggingface.co/docs/safetensors#format). Such files are read by ``safetensors``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from rillet.schemas.arrays import AnyArray

#: bytes of a piece, at most
_PIECE_BYTES = 8 << 20
#: NumPy's names of dtypes, and the format's
_DTYPES = {"<f4": "F32", "<i8": "I64"}

Sizes = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


def sizes_of(arrays: Mapping[str, AnyArray]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """What :func:`pieces` asks for, of arrays that are there."""
    return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def pieces(sizes: Sizes, arrays: Iterable[AnyArray]) -> Iterator[memoryview]:
    """The file of float32 and int64 arrays, as bytes.

    :param sizes: dtype and shape of each array by name.
    :param arrays: their contents in the same order, each in any number of arrays.
    :raises RuntimeError: the contents do not have the announced sizes.
    """
    header: dict[str, Any] = {}
    left = 0
    for name, (dtype, shape) in sizes.items():
        end = left + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype.str], "shape": list(shape), "data_offsets": [left, end]}
        left = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        flat = memoryview(cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
        left -= len(flat)
        for start in range(0, len(flat), _PIECE_BYTES):
            yield flat[start : start + _PIECE_BYTES]
    if left:
        raise RuntimeError(f"the arrays of a file end {abs(left)} bytes {'early' if left > 0 else 'late'}")

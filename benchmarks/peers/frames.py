"""What goes through the pipes between a benchmark and a peer: a line of JSON, then the bytes of the arrays it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


def write_frame(stream: BinaryIO, kind: str, arrays: Mapping[str, npt.NDArray[Any]], **values: float | str) -> None:
    """Writes one frame and flushes.

    :param arrays: of one dimension each, by name.
    :param values: what JSON can say.
    :raises OSError: nobody reads.
    """
    columns = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
    stream.write(json.dumps({"kind": kind, "values": values, "arrays": columns}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[str, dict[str, Any], Arrays] | None:
    """The next frame: its kind, values and arrays; None at the end of the stream.

    :raises EOFError: the stream ends within a frame.
    """
    line = stream.readline()
    if not line:
        return None
    head = json.loads(line)
    arrays: Arrays = {}
    for name, dtype, count in head["arrays"]:
        wanted = np.dtype(dtype).itemsize * count
        content = stream.read(wanted)
        if len(content) < wanted:
            raise EOFError(f"the stream ends within array {name}")
        arrays[name] = np.frombuffer(content, dtype)
    return head["kind"], head["values"], arrays

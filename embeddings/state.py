"""The saved form of a table: named arrays, ready for safetensors, checked when they come back.

Rows lie in the order of their fids' hashes, in which a table is taken part by part, so equal tables have equal states
however they came about. Row numbers are not part of it: nothing that is computed depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rillet.embeddings.config import Optimizer, TableConfig
from rillet.embeddings.errors import TableStateError
from rillet.embeddings.snapshot import TablePart, hashes
from rillet.schemas.arrays import AnyArray, Float32s, Int64s

FORMAT = 3
_OPTIMIZER_CODES: dict[Optimizer, int] = {"none": 0, "adagrad": 1, "lazy_adam": 2, "ftrl": 3}
#: AMSGrad has slots of its own, so it counts as an optimiser
_AMSGRAD = 16


@dataclass(frozen=True, slots=True)
class SavedTable:
    """A checked state. ``rows`` is float32[n, width], slots included; ``touched`` None where not tracked."""

    #: of the optimiser, see ``RowOptimizer.clock``
    clock: Int64s
    fids: Int64s
    rows: Float32s
    seen_s: Int64s
    touched: Int64s | None


def header(dim: int, config: TableConfig, clock: Int64s, touched: Int64s | None) -> dict[str, AnyArray]:
    """What a state has beside its rows: ``table`` int64[3] (format, dim, optimiser), ``clock`` int64[3] of the optimiser
    and, where tracked, ``touched``."""
    arrays: dict[str, AnyArray] = {"table": np.array([FORMAT, dim, _code(config)], np.int64), "clock": clock}
    if touched is not None:
        arrays["touched"] = touched
    return arrays


def pack(header: dict[str, AnyArray], parts: Sequence[TablePart]) -> dict[str, AnyArray]:
    """A state: the header, and ``fids``, ``rows`` and ``seen_s`` of all parts of a snapshot, each ordered."""
    columns = {
        "fids": np.concatenate([part.fids for part in parts]),
        "rows": np.concatenate([part.rows for part in parts]),
        "seen_s": np.concatenate([part.seen_s for part in parts]),
    }
    return {**header, **columns}


def unpack(arrays: Mapping[str, AnyArray], dim: int, config: TableConfig, width: int) -> SavedTable:
    """Checks a state against the table that it is to fill.

    :param width: floats of a row with its slots.
    :raises TableStateError: see ``EmbeddingTable.from_state``.
    """
    table = _column(arrays, "table", np.int64, (3,)).tolist()
    if table[0] != FORMAT:
        raise TableStateError(f"table state: format {table[0]}, this version reads {FORMAT}")
    if table[1:] != [dim, _code(config)]:
        raise TableStateError(
            f"table state: saved with dim {table[1]} and optimizer {_name(table[2])}, the configuration has dim {dim} "
            f"and {_name(_code(config))}; restore with the old configuration or start from nothing"
        )
    clock: Int64s = _column(arrays, "clock", np.int64, (3,))
    if clock.min() < -1 or clock[1] > clock[2]:
        raise TableStateError("table state: clock has times that cannot be; the file is damaged")
    fids: Int64s = _column(arrays, "fids", np.int64, (-1,))
    order = hashes(fids)
    if (fids <= 0).any() or not (order[1:] > order[:-1]).all():
        raise TableStateError(
            "table state: fids are not positive and in the order of their hashes; the file is damaged"
        )
    touched = _column(arrays, "touched", np.int64, (-1,)) if "touched" in arrays else None
    if touched is not None and len(touched) and touched.min() <= 0:
        raise TableStateError("table state: touched has a fid that is not positive; the file is damaged")
    seen_s: Int64s = _column(arrays, "seen_s", np.int64, (len(fids),))
    if len(seen_s) and (seen_s.min() < 0 or seen_s.max() >= 1 << 32):
        raise TableStateError("table state: seen_s has a second outside 0..2**32-1; the file is damaged")
    return SavedTable(clock, fids, _column(arrays, "rows", np.float32, (len(fids), width)), seen_s, touched)


def _code(config: TableConfig) -> int:
    return _OPTIMIZER_CODES[config.optimizer] + (_AMSGRAD if config.amsgrad else 0)


def _name(code: int) -> str:
    names = {code: name for name, code in _OPTIMIZER_CODES.items()}
    return names.get(code % _AMSGRAD, str(code)) + (" with amsgrad" if code >= _AMSGRAD else "")


def _column(arrays: Mapping[str, AnyArray], name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    if name not in arrays:
        raise TableStateError(f"table state: {name} is missing; it has {', '.join(sorted(arrays))}")
    array = np.asarray(arrays[name])
    expected = tuple(have if want < 0 else want for have, want in zip(array.shape, shape, strict=False))
    if array.dtype != dtype or array.ndim != len(shape) or array.shape != expected:
        raise TableStateError(
            f"table state: {name} is {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}"
        )
    return np.ascontiguousarray(array)

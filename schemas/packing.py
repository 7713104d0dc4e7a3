"""Raw columns of rows, packed: fids row after row with lengths, as records hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rillet.schemas.arrays import AnyArray, Int64s, UInt16s
from rillet.schemas.errors import RecordError
from rillet.schemas.slots import Slot


def pack_columns(
    side: str,
    slots: Sequence[Slot],
    value_slot: Callable[[Slot], Slot],
    columns: Mapping[str, Sequence[Any] | AnyArray],
) -> tuple[Int64s, UInt16s | None]:
    """See :meth:`rillet.schemas.FeatureSpec.encode_side`.

    :param value_slot: the slot that makes fids of a slot's raw values.
    """
    flat: list[Int64s] = []
    counts: list[Int64s] = []
    rows = -1
    for slot in slots:
        if slot.name not in columns:
            raise RecordError(f"{side} column {slot.name} is missing")
        values = columns[slot.name]
        if isinstance(values, str | bytes):
            raise RecordError(f"{side} column {slot.name} is text, expected one value per row")
        if rows not in (-1, len(values)):
            raise RecordError(f"{side} column {slot.name} has {len(values)} rows, the others {rows}")
        rows = len(values)
        try:
            if not slot.ragged:
                flat.append(slot.fids(values))
                counts.append(np.ones(rows, np.int64))
            else:
                if any(isinstance(row, str | bytes | Mapping) for row in values):
                    raise ValueError("a row is text or a mapping, expected a sequence of values")
                lengths = np.fromiter((len(v) for v in values), np.int64, rows)
                if rows and lengths.max() > slot.max_values:
                    raise ValueError(f"{lengths.max()} values, max_values is {slot.max_values}")
                flat.append(value_slot(slot).fids([v for row in values for v in row]))
                counts.append(lengths)
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordError(f"{side} column {slot.name}: {error}") from error
    if not slots:
        return np.empty(0, np.int64), None
    lengths_2d = np.stack(counts, axis=1)
    # Values lie column after column; a stable sort by row brings them to row after row, slots in order.
    row_of = np.concatenate([np.repeat(np.arange(rows), count) for count in counts])
    fids = np.concatenate(flat)[np.argsort(row_of, kind="stable")]
    ragged = any(slot.ragged for slot in slots)
    return fids, lengths_2d.astype(np.uint16).reshape(-1) if ragged else None

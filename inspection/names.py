"""What the feature spec calls things: fids as slot and value, numbers of tasks and dense features by their names.

A fid says which slot it is of, so records of another spec can be taken apart too; their slots have numbers for names then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rillet.schemas import FeatureSpec, RecordError, Slot
from rillet.schemas.arrays import Float32s, Int64s, UInt16s
from rillet.schemas.fid import slot_of, value_of


class Names:
    """The names of one feature spec, or of none, for records of a spec that is not at hand."""

    def __init__(self, spec: FeatureSpec | None) -> None:
        self._slots: dict[int, Slot] = {} if spec is None else {s.slot: spec.value_slot(s) for s in spec.slots}
        self._crosses = {} if spec is None else {cross.slot: cross.name for cross in spec.crosses}
        self._several = {slot.name for slot in spec.slots if slot.ragged} if spec else set()
        self._tasks = [task.name for task in spec.tasks] if spec else []
        self._dense = list(spec.dense_names) if spec else []

    def slot(self, number: int) -> str:
        """Name of a slot or cross."""
        if (slot := self._slots.get(number)) is not None:
            return slot.name
        return self._crosses.get(number, f"slot {number}")

    def value(self, fid: int) -> int | str:
        """The value in a fid: an id as it is, a number's bin with its edges, a hash as ``#`` and 12 digits.

        >>> from rillet.schemas import make_fids
        >>> price = Slot("price", 3, "number", bins=(1.5, 10.0))
        >>> names = Names(FeatureSpec("shop", (Slot("user", 1, "id"), price), (), (), ()))
        >>> [names.value(int(make_fids(slot, [1])[0])) for slot in (1, 3, 9)]
        [1, 'bin 1: 1.5 to 10', '#000000000001']
        """
        number, value = int(slot_of(fid)), int(value_of(fid))
        slot = self._slots.get(number)
        if slot is None or slot.kind == "token":
            return f"#{value:012x}"
        if slot.kind == "number":
            return f"bin {value}: {_edges(slot.bins, value)}"
        return value

    def features(self, fids: Int64s, numbers: Sequence[int] = ()) -> dict[str, Any]:
        """Values by slot name: one, or a list where the slot may have several.

        :param fids: int64[n] of one row.
        :param numbers: slots that the row has whether or not there is a value in it.
        """
        found: dict[str, list[int | str]] = {self.slot(number): [] for number in numbers}
        for fid in fids.tolist():
            found.setdefault(self.slot(int(slot_of(fid))), []).append(self.value(fid))
        return {
            name: values[0] if len(values) == 1 and name not in self._several else values
            for name, values in found.items()
        }

    def per_task(self, values: Sequence[Any]) -> dict[str, Any]:
        """One row's values by task."""
        return _named(self._tasks, "task", values)

    def dense(self, values: Float32s) -> dict[str, float]:
        """One row's dense features by name."""
        return _named(self._dense, "dense", [float(f"{value:.7g}") for value in values.tolist()])


def rows_of_fids(fids: Int64s, lengths: UInt16s | None, rows: int, what: str) -> list[Int64s]:
    """Packed fids taken apart into rows, by the lengths that came with them.

    :param what: what to call the column in a message.
    :raises RecordError: they do not divide into so many rows.
    """
    if lengths is None:
        if rows == 0 or len(fids) % rows:
            raise RecordError(f"{what}: {len(fids)} values are no whole number per row of {rows} rows")
        return list(fids.reshape(rows, -1))
    if rows == 0 or len(lengths) % rows or int(lengths.sum()) != len(fids):
        raise RecordError(f"{what}: {len(fids)} values and {len(lengths)} lengths do not divide into {rows} rows")
    counts = lengths.reshape(rows, -1).sum(axis=1, dtype=np.int64)
    return np.split(fids, np.cumsum(counts)[:-1])


def _named(names: Sequence[str], kind: str, values: Sequence[Any]) -> dict[str, Any]:
    known = names if len(names) == len(values) else [f"{kind} {index}" for index in range(len(values))]
    return dict(zip(known, values, strict=True))


def _edges(bins: Sequence[float], index: int) -> str:
    if index > len(bins):
        return "not of this spec"
    if not bins:
        return "any"
    if index == 0:
        return f"below {bins[0]:g}"
    return f"{bins[-1]:g} and above" if index == len(bins) else f"{bins[index - 1]:g} to {bins[index]:g}"

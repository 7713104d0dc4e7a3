"""What a page may lack while the feature spec is being changed: what our spec has, and none of those beside it.

Applications send the new field a little before or after the joiner is told of it. Until no other spec is accepted any more, a page
without it is what a native record of the old spec is: a slot of exactly one value has the missing value, a dense feature is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rillet.schemas import Slot, SpecRegistry, make_fids
from rillet.schemas.arrays import Int64s, UInt16s, range_starts
from rillet.schemas.fid import MISSING_VALUE

Side = Literal["context", "item"]

#: by kind, a value that is taken in place of one that is not there, before the missing value takes its own
_STAND_INS: dict[str, Any] = {"id": 0, "token": "", "number": 0.0}


class NewColumns:
    """The slots of exactly one value and the dense features that are new: slots of several are empty where they are missing."""

    def __init__(self, specs: SpecRegistry) -> None:
        self._spec = specs.current
        #: of each side: place and slot
        self._slots: dict[Side, list[tuple[int, Slot]]] = {
            "context": _new_slots(specs.current.context, [spec.context for spec in specs.others]),
            "item": _new_slots(specs.current.item, [spec.item for spec in specs.others]),
        }
        self.slots = frozenset(slot.name for slots in self._slots.values() for _, slot in slots)
        self.dense = _new(specs.current.dense_names, [spec.dense_names for spec in specs.others])

    def lacking(
        self, context: Mapping[str, Any], items: Mapping[str, list[Any]], dense: Mapping[str, list[Any]]
    ) -> tuple[str, ...]:
        """Names of the new slots and dense features that a page lacks, or one of its items, each once."""
        found = [slot.name for _, slot in self._slots["context"] if context[slot.name] is None]
        found += [slot.name for _, slot in self._slots["item"] if _lacks(items[slot.name])]
        found += [name for name in dense if name in self.dense and _lacks(dense[name])]
        return tuple(dict.fromkeys(found))

    def encode_side(self, side: Side, columns: Mapping[str, list[Any]]) -> tuple[Int64s, UInt16s | None]:
        """As :meth:`rillet.schemas.FeatureSpec.encode_side`, with the missing value where a new slot has None."""
        absent = [(place, slot) for place, slot in self._slots[side] if _lacks(columns[slot.name])]
        stand_ins = {slot.name: _instead_of_none(columns[slot.name], _STAND_INS[slot.kind]) for _, slot in absent}
        fids, lengths = self._spec.encode_side(side, {**columns, **stand_ins})
        if not absent:
            return fids, lengths
        rows = len(columns[absent[0][1].name])
        starts: Int64s = np.arange(len(fids)) if lengths is None else range_starts(lengths.astype(np.int64))
        starts = starts.reshape(rows, -1)
        for place, slot in absent:
            missing = [row for row, value in enumerate(columns[slot.name]) if value is None]
            fids[starts[missing, place]] = make_fids(slot.slot, MISSING_VALUE)
        return fids, lengths

    def dense_column(self, name: str, values: list[Any]) -> list[Any]:
        """A dense feature, 0 where a new one has None."""
        return _instead_of_none(values, 0.0) if name in self.dense else values


def _new_slots(slots: Sequence[Slot], others: Sequence[Sequence[Slot]]) -> list[tuple[int, Slot]]:
    new = _new([slot.name for slot in slots], [[slot.name for slot in other] for other in others])
    return [(place, slot) for place, slot in enumerate(slots) if slot.name in new and not slot.ragged]


def _new(names: Iterable[str], others: Sequence[Iterable[str]]) -> frozenset[str]:
    """Those of the names that none of the others has, if there are any others."""
    return frozenset(names).difference(*others) if others else frozenset()


def _lacks(values: list[Any]) -> bool:
    return any(value is None for value in values)


def _instead_of_none(values: list[Any], stand_in: Any) -> list[Any]:
    return [stand_in if value is None else value for value in values]

"""Impressions by the values of a slot."""

from __future__ import annotations

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas import FeatureSpec, Slot, SpecError, value_of
from rillet.schemas.arrays import Int64s, UInt16s, range_indices

#: what the values that are not among the most frequent ones are called together
ALL_OTHERS = "other"


def find_slot(spec: FeatureSpec, name: str) -> Slot:
    """The slot of a name.

    :raises SpecError: there is none.
    """
    for slot in spec.slots:
        if slot.name == name:
            return slot
    raise SpecError(
        f"feature spec {spec.name} has no slot {name!r}; it has {', '.join(slot.name for slot in spec.slots)}"
    )


def split_by_slot(expected: ExpectedExamples, name: str, rows: Int64s, values: int) -> dict[str, Int64s]:
    """Rows that have each of the most frequent values of a slot, most frequent first, then all that have none of them.

    A row with several values of a ragged slot is in the part of each.

    :param rows: impressions to be split, int64[n].
    :raises SpecError: no such slot.
    """
    slot = find_slot(expected.spec, name)
    pair_rows, fids = _pairs(expected, slot, rows)
    found, inverse, counts = np.unique(fids, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:values]
    slot = expected.spec.value_slot(slot)
    parts = {show_value(slot, int(found[at])): pair_rows[inverse == at] for at in order}
    taken = np.zeros(len(expected.request), np.bool_)
    for part in parts.values():
        taken[part] = True
    rest = rows[~taken[rows]]
    return parts | {ALL_OTHERS: rest} if len(rest) else parts


def show_value(slot: Slot, fid: int) -> str:
    """A value as a person knows it: an id, or the range of a number; of a token only its hash is kept."""
    value = int(value_of(fid))
    if slot.kind == "token":
        return f"#{value:012x}"
    if slot.kind == "id":
        return str(value)
    edges = ["", *(f"{edge:g}" for edge in slot.bins), ""]
    low, high = edges[value], edges[value + 1]
    return f"below {high}" if not low else f"{low} and above" if not high else f"{low} to {high}"


def _pairs(expected: ExpectedExamples, slot: Slot, rows: Int64s) -> tuple[Int64s, Int64s]:
    """Row and fid of every value of a slot in ``rows``, int64[k] each; the same value twice in a row once."""
    side: tuple[Slot, ...]
    if slot in expected.spec.context:
        side, at, fids = expected.spec.context, expected.request[rows], expected.context_fids
        starts, lengths = expected.context_start, expected.context_lengths
    else:
        side, at, fids = expected.spec.item, rows, expected.item_fids
        starts, lengths = expected.item_start, expected.item_lengths
    column = side.index(slot)
    before, counts = _before(lengths, column)[at], lengths[at, column].astype(np.int64)
    found = fids[range_indices(starts[at] + before, counts)]
    pairs = np.unique(np.stack((np.repeat(rows, counts), found)), axis=1) if slot.ragged else None
    return (np.repeat(rows, counts), found) if pairs is None else (pairs[0], pairs[1])


def _before(lengths: UInt16s, column: int) -> Int64s:
    """How many values of earlier slots lie before those of a slot, int64 of each line."""
    before: Int64s = lengths[:, :column].sum(axis=1, dtype=np.int64)
    return before

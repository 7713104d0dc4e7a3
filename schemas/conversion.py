"""Records of one feature spec as records of another: columns carried over by name, whole arrays at a time.

What a record does not have: a slot of several values has none, a slot of exactly one has the *missing value*
(:data:`rillet.schemas.fid.MISSING_VALUE`), a dense feature is 0, a served logit NaN. Which specs can be converted at all says :mod:`rillet.schemas.spec_changes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt16s, range_indices, range_starts
from rillet.schemas.fid import MISSING_VALUE, make_fids
from rillet.schemas.records import ExampleBlock, FeatureEvent, LabelKind
from rillet.schemas.slots import Slot
from rillet.schemas.spec import FeatureSpec

Array = TypeVar("Array", bound=AnyArray)

#: columns of a block with the same number of values per row
_ROW_COLUMNS = (
    *("request_index", "impression_ids", "item_lengths", "dense", "labels", "mask", "sampling_rate", "label_kind"),
    *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms", "served_logits"),
)


class SpecConversion:
    """From records of ``old``, checked against it, to records of ``new``."""

    def __init__(self, old: FeatureSpec, new: FeatureSpec) -> None:
        self.old = old
        self._hash = new.hash
        self._context, self._item = SideConversion(old.context, new.context), SideConversion(old.item, new.item)
        self._dense = _sources(old.dense_names, new.dense_names)
        #: int64[T], the task of the old spec that each of the new one is, -1 where it has none
        self.tasks = _sources([task.name for task in old.tasks], [task.name for task in new.tasks])
        self._old_tasks = len(old.tasks)

    def feature(self, event: FeatureEvent) -> FeatureEvent:
        """The event with the columns of the new spec."""
        n = len(event.impression_ids)
        context_fids, context_lengths = self.context(event.context_fids, event.context_lengths, 1)
        item_fids, item_lengths = self.item(event.item_fids, event.item_lengths, n)
        return replace(
            event,
            spec_hash=self._hash,
            context_fids=context_fids,
            context_lengths=context_lengths,
            item_fids=item_fids,
            item_lengths=item_lengths,
            dense=self.dense(event.dense, n),
            served_logits=self._logits(event.served_logits, n),
        )

    def block(self, block: ExampleBlock) -> ExampleBlock:
        """The block with the columns of the new spec, and as many rows: positions count them.

        A row of a task that the new spec does not have teaches nothing: its mask is 0, and it counts as a negative.
        """
        n = len(block)
        mask = take_columns(block.mask, n, self.tasks, 0)
        taught = mask.reshape(n, len(self.tasks)).any(axis=1)
        context_fids, context_lengths = self.context(block.context_fids, block.context_lengths, len(block.request_ids))
        item_fids, item_lengths = self.item(block.item_fids, block.item_lengths, n)
        return replace(
            block,
            spec_hash=self._hash,
            context_fids=context_fids,
            context_lengths=context_lengths,
            item_fids=item_fids,
            item_lengths=item_lengths,
            dense=self.dense(block.dense, n),
            labels=take_columns(block.labels, n, self.tasks, 0),
            mask=mask,
            label_kind=np.where(taught, block.label_kind, np.uint8(LabelKind.NEGATIVE)),
            served_logits=self._logits(block.served_logits, n),
        )

    def context(self, fids: Int64s, lengths: UInt16s | None, rows: int) -> tuple[Int64s, UInt16s | None]:
        """Context fids of ``rows`` requests, and lengths; None where no slot of the new spec's context is ragged."""
        return self._context.convert(fids, lengths, rows)

    def item(self, fids: Int64s, lengths: UInt16s | None, rows: int) -> tuple[Int64s, UInt16s | None]:
        """Likewise item fids of ``rows`` impressions."""
        return self._item.convert(fids, lengths, rows)

    def dense(self, dense: Float32s, rows: int) -> Float32s:
        """float32[rows x Dd] of the old spec as those of the new one, 0 for a feature that is new."""
        return take_columns(dense, rows, self._dense, 0)

    def _logits(self, logits: Float32s | None, rows: int) -> Float32s | None:
        return None if logits is None else take_columns(logits, rows, self.tasks, np.nan)


class SideConversion:
    """From the slots of one side of a spec to those of another."""

    def __init__(self, old: Sequence[Slot], new: Sequence[Slot]) -> None:
        places = {(slot.name, slot.slot): at for at, slot in enumerate(old)}
        self._same = tuple(old) == tuple(new)
        self._old_slots = len(old)
        self._ragged = any(slot.ragged for slot in new)
        one_each = not self._ragged and not any(slot.ragged for slot in old)
        #: place in the old row of each new slot; behind the old row lie the missing values
        found = np.array([places.get((slot.name, slot.slot), -1) for slot in new], np.int64)
        self._missing: Int64s = np.array([make_fids(slot.slot, MISSING_VALUE) for slot in new], np.int64)
        self._found = found
        self._gather = np.where(found < 0, len(old) + np.arange(len(new)), found) if one_each else None
        self._most: Int64s = np.array([slot.max_values for slot in new], np.int64)
        self._fewest: Int64s = np.array([0 if slot.ragged else 1 for slot in new], np.int64)

    def convert(self, fids: Int64s, lengths: UInt16s | None, rows: int) -> tuple[Int64s, UInt16s | None]:
        """Fids of so many rows and their lengths, in the new slots.

        :param fids: int64, row after row; lengths: uint16[rows x old slots], None for one value each.
        """
        if self._same:
            return fids, lengths
        slots = len(self._found)
        if lengths is None and self._gather is not None:
            wide = np.concatenate(
                [fids.reshape(rows, self._old_slots), np.broadcast_to(self._missing, (rows, slots))], axis=1
            )
            return wide[:, self._gather].reshape(-1), None
        counts = (
            np.ones((rows, self._old_slots), np.int64)
            if lengths is None
            else lengths.reshape(rows, self._old_slots).astype(np.int64)
        )
        starts = range_starts(counts.reshape(-1)).reshape(counts.shape)
        known = self._found >= 0
        taken, first = np.zeros((rows, slots), np.int64), np.zeros((rows, slots), np.int64)
        taken[:, known], first[:, known] = counts[:, self._found[known]], starts[:, self._found[known]]
        # The first values, which are the newest of a history.
        taken = np.minimum(taken, self._most)
        absent = taken < self._fewest
        # Missing values lie behind all others, one per slot.
        first = np.where(absent, len(fids) + np.arange(slots), first)
        taken[absent] = 1
        chosen = np.concatenate([fids, self._missing])[range_indices(first.reshape(-1), taken.reshape(-1))]
        return chosen, taken.astype(np.uint16).reshape(-1) if self._ragged else None


def take_columns(values: Array, rows: int, sources: Int64s, filling: float) -> Array:
    """Columns of a flat table [rows x k], by their numbers: a flat table [rows x len(sources)].

    :param sources: int64, number of the column to take, -1 for one that is all ``filling``.

    >>> take_columns(np.array([1, 2, 3, 4]), 2, np.array([1, -1]), 0).tolist()
    [2, 0, 4, 0]
    """
    out: Any = np.full((rows, len(sources)), filling, values.dtype)
    known = sources >= 0
    if rows:
        out[:, known] = values.reshape(rows, -1)[:, sources[known]]
    flat: Array = out.reshape(-1)
    return flat


def _sources(old: Sequence[str], new: Sequence[str]) -> Int64s:
    places = {name: at for at, name in enumerate(old)}
    return np.array([places.get(name, -1) for name in new], np.int64)


def without_idle_rows(block: ExampleBlock) -> ExampleBlock:
    """The rows of a block that teach a task; requests that have none left stay, which costs little."""
    n = len(block)
    keep: Bools = block.mask.reshape(n, len(block.mask) // max(n, 1)).any(axis=1)
    if keep.all():
        return block

    def of(column: AnyArray | None) -> Any:
        return None if column is None else column.reshape(n, -1)[keep].reshape(-1)

    if block.item_lengths is None:
        fids = of(block.item_fids)
    else:
        counts = block.item_lengths.reshape(n, -1).sum(axis=1, dtype=np.int64)
        fids = block.item_fids[np.repeat(keep, counts)]
    return replace(block, item_fids=fids, **{name: of(getattr(block, name)) for name in _ROW_COLUMNS})

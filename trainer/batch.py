"""Batches of an exact number of rows, cut out of example blocks in the order they were read.

Columns are sliced and concatenated; no row is looked at on its own. The rest of a block that is cut goes into
the next batch, and every batch carries the position after its last row, so that a checkpoint can say exactly where
training goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, LabelKind
from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt8s, UInt16s

#: partition -> (offset of the next record, rows of it that were already trained on)
Positions = dict[int, tuple[int, int]]
#: the kinds of rows that mode ``immediate`` sends
_EXPOSURE_KINDS = (LabelKind.PROVISIONAL, LabelKind.CORRECTION)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """n rows, ready for a training step. S slots, T tasks, Dd dense features, F fids."""

    fids: Int64s
    #: uint16[n * S], None when every slot has one value
    lengths: UInt16s | None
    #: float32[n, Dd]
    dense: Float32s
    #: uint8[n, T]
    labels: UInt8s
    #: uint8[n, T], 1 where the row has a label for the task
    mask: UInt8s
    #: float32[n]
    sampling_rate: Float32s
    #: uint8[n], see LabelKind
    label_kind: UInt8s
    #: int64[n], when the row's request was made
    feature_time_ms: Int64s
    #: float32[n, T], NaN where the served logit was not recorded
    served_logits: Float32s
    newest_event_ms: int
    newest_ingest_ms: int
    #: int64[k], ingest times of the positive rows' actions, where known
    action_ingest_ms: Int64s
    #: where reading goes on after this batch; only partitions that moved
    positions: Positions

    def __len__(self) -> int:
        return len(self.sampling_rate)

    @property
    def exposure(self) -> Bools:
        """bool[n], True for the rows of mode ``immediate``, whose impression may give a negative and a positive."""
        provisional, correction = (self.label_kind == kind for kind in _EXPOSURE_KINDS)
        found: Bools = provisional | correction
        return found


@dataclass(slots=True)
class _Pending:
    """A block with a cursor: rows before ``row`` (and fids before ``fid``) are used up."""

    partition: int
    offset: int
    block: ExampleBlock | None
    arrived_ms: int
    row: int = 0
    fid: int = 0


@dataclass(frozen=True, slots=True)
class _Slice:
    block: ExampleBlock
    rows: slice
    fids: slice


class BatchAssembler:
    """Takes blocks and gives batches of as many rows as are asked for."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._slots = len(spec.slots)
        self._tasks = len(spec.tasks)
        self._dense = len(spec.dense)
        self._pending: deque[_Pending] = deque()
        self._rows = 0

    def __len__(self) -> int:
        """Rows that are queued."""
        return self._rows

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest queued row arrived, ms; None when there is none."""
        return next((entry.arrived_ms for entry in self._pending if entry.block is not None), None)

    def add(self, partition: int, offset: int, block: ExampleBlock | None, now_ms: int, *, skip_rows: int = 0) -> None:
        """Queues the next record.

        :param block: a checked block; None for a record that was refused: the position moves past it.
        :param now_ms: when it arrived, ms.
        :param skip_rows: rows at its beginning that were already trained on.
        """
        entry = _Pending(partition, offset, block if block is not None and len(block) else None, now_ms)
        if entry.block is not None and skip_rows:
            entry.row = min(skip_rows, len(entry.block))
            entry.fid = self._fids_of(entry.block, 0, entry.row)
            if entry.row == len(entry.block):
                entry.block = None
        if entry.block is not None:
            self._rows += len(entry.block) - entry.row
        self._pending.append(entry)

    def take(self, rows: int, *, partial: bool = False) -> Batch | None:
        """The next batch of ``rows`` rows, or None while there are too few.

        :param partial: also give a batch of fewer rows (never an empty one).
        """
        wanted = min(rows, self._rows) if partial else rows
        if not wanted or self._rows < wanted:
            return None
        positions: Positions = {}
        slices: list[_Slice] = []
        missing = wanted
        while missing:
            entry = self._pending[0]
            if entry.block is None:
                self._pass(positions)
                continue
            rows = min(missing, len(entry.block) - entry.row)
            fids = self._fids_of(entry.block, entry.row, entry.row + rows)
            slices.append(_Slice(entry.block, slice(entry.row, entry.row + rows), slice(entry.fid, entry.fid + fids)))
            entry.row += rows
            entry.fid += fids
            missing -= rows
            if entry.row == len(entry.block):
                self._pass(positions)
            else:
                positions[entry.partition] = (entry.offset, entry.row)
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        self._rows -= wanted
        return self._join(slices, positions)

    def drain_empty(self) -> Positions:
        """Positions after records without rows at the front of the queue, when there is no batch to carry them."""
        positions: Positions = {}
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        return positions

    def _pass(self, positions: Positions) -> None:
        entry = self._pending.popleft()
        positions[entry.partition] = (entry.offset + 1, 0)

    def _fids_of(self, block: ExampleBlock, start: int, stop: int) -> int:
        if block.lengths is None:
            return (stop - start) * self._slots
        if stop - start == len(block):
            return len(block.fids)
        return int(block.lengths[start * self._slots : stop * self._slots].sum(dtype=np.int64))

    def _join(self, slices: list[_Slice], positions: Positions) -> Batch:
        def column(get: Callable[[ExampleBlock], AnyArray], width: int = 1) -> AnyArray:
            return np.concatenate([get(s.block)[s.rows.start * width : s.rows.stop * width] for s in slices])

        slots, tasks = self._slots, self._tasks
        # With lengths in one block and none in another, the latter's slots have one value each.
        ragged = any(s.block.lengths is not None for s in slices)
        sampling_rate = column(lambda block: block.sampling_rate)
        rows = len(sampling_rate)
        feature_ms, action_ms = column(lambda b: b.feature_time_ms), column(lambda b: b.action_time_ms)
        feature_in, action_in = column(lambda b: b.feature_ingest_ms), column(lambda b: b.action_ingest_ms)
        served = any(s.block.served_logits is not None for s in slices)
        return Batch(
            fids=np.concatenate([s.block.fids[s.fids] for s in slices]),
            lengths=column(lambda b: _ones(len(b) * slots) if b.lengths is None else b.lengths, slots)
            if ragged
            else None,
            dense=column(lambda b: b.dense, self._dense).reshape(rows, self._dense),
            labels=column(lambda b: b.labels, tasks).reshape(rows, tasks),
            mask=column(lambda b: b.mask, tasks).reshape(rows, tasks),
            sampling_rate=sampling_rate,
            label_kind=column(lambda b: b.label_kind),
            feature_time_ms=feature_ms,
            served_logits=column(lambda b: _nans(len(b) * tasks) if b.served_logits is None else b.served_logits, tasks)
            .reshape(rows, tasks)
            .astype(np.float32, copy=False)
            if served
            else _nans(rows * tasks).reshape(rows, tasks),
            newest_event_ms=int(max(feature_ms.max(), action_ms.max())),
            newest_ingest_ms=int(max(feature_in.max(), action_in.max())),
            action_ingest_ms=action_in[action_in != NO_TIME_MS],
            positions=positions,
        )


def _ones(count: int) -> UInt16s:
    return np.ones(count, np.uint16)


def _nans(count: int) -> Float32s:
    return np.full(count, np.nan, np.float32)

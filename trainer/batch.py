"""Batches of an exact number of rows, cut out of example blocks in the order they were read.

Columns are sliced and concatenated, and the crosses added; no row is looked at on its own. The rest of a block that is
cut goes into the next batch, and every batch carries the position after its last row, so that a checkpoint can say
exactly where training goes on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from rillet.embeddings import CrossColumns
from rillet.schemas import ExampleBlock, FeatureSpec, LabelKind
from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt8s, UInt16s
from rillet.schemas.example_rows import cut_requests, fids_of_blocks

#: partition -> (offset of the next record, rows of it that were already trained on)
Positions = dict[int, tuple[int, int]]
#: columns of a block with the same number of values per row
_BLOCK_COLUMNS = (
    *("request_index", "impression_ids", "item_lengths", "dense", "labels", "mask", "sampling_rate", "label_kind"),
    *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms", "served_logits"),
)


class RowOrigin(NamedTuple):
    """Where a row of a batch was read, and the row itself."""

    partition: int
    offset: int
    #: its number among the rows of the record
    row: int
    #: a block of this row alone
    block: ExampleBlock


class Piece(NamedTuple):
    """Rows of one record that lie together in a batch."""

    partition: int
    offset: int
    #: number of the first of them among the rows of the record
    first_row: int
    block: ExampleBlock


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """n rows, ready for a training step. S segments (slots, then crosses), T tasks, Dd dense features, F fids."""

    #: int64[F], row after row, segments in order
    fids: Int64s
    #: uint16[n * S], None when every segment has one value
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
    #: int64[n], NO_TIME_MS without an action
    action_time_ms: Int64s
    #: int64[n], when the request entered its topic, NO_TIME_MS where unknown
    feature_ingest_ms: Int64s
    #: int64[n], likewise of the action
    action_ingest_ms: Int64s
    #: where reading goes on after this batch; only partitions that moved
    positions: Positions
    #: what it was cut from, in order
    pieces: Sequence[Piece]
    #: int64[n], of each row among those of all pieces
    numbers: Int64s

    def __len__(self) -> int:
        return len(self.sampling_rate)

    def select(self, chosen: Bools) -> Batch:
        """The rows where ``chosen`` bool[n] is true, in their order; positions are those of the whole batch."""
        n = len(self)
        if self.lengths is None:
            fids, lengths = self.fids.reshape(n, -1)[chosen].reshape(-1), None
        else:
            per_slot = self.lengths.reshape(n, -1)
            fids = self.fids[np.repeat(chosen, per_slot.sum(axis=1, dtype=np.int64))]
            lengths = per_slot[chosen].reshape(-1)
        columns = {name: getattr(self, name)[chosen] for name in _BATCH_COLUMNS}
        return replace(self, fids=fids, lengths=lengths, **columns)

    def state(self) -> dict[str, AnyArray]:
        """Its columns, without where it was read."""
        lengths = {} if self.lengths is None else {"lengths": self.lengths}
        return {"fids": self.fids, **lengths, **{name: getattr(self, name) for name in _BATCH_COLUMNS}}

    @classmethod
    def from_state(cls, columns: Mapping[str, AnyArray]) -> Batch:
        """A batch of these columns, read nowhere."""
        return cls(**{"lengths": None, **columns}, positions={}, pieces=())  # type: ignore[arg-type]

    def origin(self, row: int) -> RowOrigin:
        """Where the row with this index was read."""
        number = int(self.numbers[row])
        ends = list(accumulate(len(piece.block) for piece in self.pieces))
        at = bisect_right(ends, number)
        piece = self.pieces[at]
        row_of_piece = number - (ends[at] - len(piece.block))
        return RowOrigin(
            piece.partition, piece.offset, piece.first_row + row_of_piece, row_alone(piece.block, row_of_piece)
        )

    @property
    def exposure(self) -> Bools:
        """bool[n], True for the rows of mode ``immediate``, whose impression may give a negative and a positive."""
        found: Bools = (self.label_kind == LabelKind.PROVISIONAL) | (self.label_kind == LabelKind.CORRECTION)
        return found

    @property
    def late(self) -> Bools:
        """bool[n], True for late positives, whose pair gave a negative before."""
        found: Bools = self.label_kind == LabelKind.LATE_POSITIVE
        return found


#: columns of a batch with an entry per row
_BATCH_COLUMNS = (
    *("dense", "labels", "mask", "sampling_rate", "label_kind", "served_logits", "numbers"),
    *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms"),
)


@dataclass(slots=True)
class _Pending:
    """A record, with those of its rows that are not in a batch yet; no block where there are none."""

    partition: int
    offset: int
    block: ExampleBlock | None
    arrived_ms: int
    #: rows of the record that are used up
    used: int = 0


class BatchAssembler:
    """Takes blocks and gives batches of as many rows as are asked for."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._crosses = CrossColumns.of_examples(spec)
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
        if not self._rows:
            return None
        return next(entry.arrived_ms for entry in self._pending if entry.block is not None)

    def add(self, partition: int, offset: int, block: ExampleBlock | None, now_ms: int, *, skip_rows: int = 0) -> None:
        """Queues the next record.

        :param block: a checked block; None for a record that was refused: the position moves past it.
        :param now_ms: when it arrived, ms.
        :param skip_rows: rows at its beginning that were already trained on.
        """
        rows = 0 if block is None else len(block)
        if block is not None and skip_rows:
            block = cut_rows(block, min(skip_rows, rows), rows)
            rows = len(block)
        self._rows += rows
        self._pending.append(_Pending(partition, offset, block if rows else None, now_ms, skip_rows))

    def take(self, rows: int, *, partial: bool = False) -> Batch | None:
        """The next batch of ``rows`` rows, or None while there are too few.

        :param partial: also give a batch of fewer rows (never an empty one).
        """
        wanted = min(rows, self._rows) if partial else rows
        if not wanted or self._rows < wanted:
            return None
        positions: Positions = {}
        pieces: list[Piece] = []
        missing = wanted
        while missing:
            entry = self._pending[0]
            block = entry.block
            if block is None:
                self._pass(positions)
                continue
            count = len(block)
            if count <= missing:
                pieces.append(Piece(entry.partition, entry.offset, entry.used, block))
                missing -= count
                self._pass(positions)
            else:
                pieces.append(Piece(entry.partition, entry.offset, entry.used, cut_rows(block, 0, missing)))
                entry.block = cut_rows(block, missing, count)
                entry.used += missing
                positions[entry.partition] = (entry.offset, entry.used)
                missing = 0
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        self._rows -= wanted
        return self._join(pieces, positions)

    def drain_empty(self) -> Positions:
        """Positions after records without rows at the front of the queue, when there is no batch to carry them."""
        positions: Positions = {}
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        return positions

    def _pass(self, positions: Positions) -> None:
        entry = self._pending.popleft()
        positions[entry.partition] = (entry.offset + 1, 0)

    def _join(self, pieces: Sequence[Piece], positions: Positions) -> Batch:
        blocks = [piece.block for piece in pieces]
        # Most blocks have a row or few and are taken whole: one pass per column, nothing per block and column.
        tasks = self._tasks
        sampling_rate = np.concatenate([block.sampling_rate for block in blocks])
        rows = len(sampling_rate)
        fids, lengths = fids_of_blocks(blocks, self._spec)
        logits = _concatenated([block.served_logits for block in blocks], lambda i: _nans(len(blocks[i]) * tasks))
        fids, lengths = self._crosses.add(fids, lengths, rows)
        return Batch(
            fids=fids,
            lengths=lengths,
            dense=np.concatenate([block.dense for block in blocks]).reshape(rows, self._dense),
            labels=np.concatenate([block.labels for block in blocks]).reshape(rows, tasks),
            mask=np.concatenate([block.mask for block in blocks]).reshape(rows, tasks),
            sampling_rate=sampling_rate,
            label_kind=np.concatenate([block.label_kind for block in blocks]),
            feature_time_ms=np.concatenate([block.feature_time_ms for block in blocks]),
            served_logits=(_nans(rows * tasks) if logits is None else logits).reshape(rows, tasks),
            action_time_ms=np.concatenate([block.action_time_ms for block in blocks]),
            feature_ingest_ms=np.concatenate([block.feature_ingest_ms for block in blocks]),
            action_ingest_ms=np.concatenate([block.action_ingest_ms for block in blocks]),
            positions=positions,
            pieces=pieces,
            numbers=np.arange(rows),
        )


def cut_rows(block: ExampleBlock, start: int, stop: int) -> ExampleBlock:
    """Rows ``start`` to ``stop`` of a block with the requests that they need, as views."""
    n = max(len(block), 1)

    def rows(column: AnyArray | None) -> Any:
        width = 0 if column is None else len(column) // n
        return None if column is None else column[start * width : stop * width]

    if block.item_lengths is None:
        fids = rows(block.item_fids)
    else:
        slots = len(block.item_lengths) // n
        first = int(block.item_lengths[: start * slots].sum(dtype=np.int64))
        fids = block.item_fids[first : first + int(rows(block.item_lengths).sum(dtype=np.int64))]
    columns = {name: rows(getattr(block, name)) for name in _BLOCK_COLUMNS}
    request = columns["request_index"]
    needed, context_fids, context_lengths = cut_requests(
        block.context_fids, block.context_lengths, len(block.request_ids), request
    )
    columns |= {"context_fids": context_fids, "context_lengths": context_lengths, "item_fids": fids}
    columns |= {"request_ids": block.request_ids[needed], "request_index": request - np.int32(needed.start)}
    return replace(block, **columns)


def row_alone(block: ExampleBlock, row: int) -> ExampleBlock:
    """A block of one row of a block, which names its own request only."""
    return cut_rows(block, row, row + 1)


def _concatenated(columns: Sequence[AnyArray | None], filling: Callable[[int], AnyArray]) -> Any:
    """The columns one after the other, ``filling(i)`` where the i-th is None; None where all are."""
    if all(column is None for column in columns):
        return None
    return np.concatenate([filling(i) if column is None else column for i, column in enumerate(columns)])


def _nans(count: int) -> Float32s:
    return np.full(count, np.nan, np.float32)

"""Batches of an exact number of rows, cut out of example blocks in the order they were read.

Columns are sliced and concatenated, and the crosses added; no row is looked at on its own. The rest of a block that is cut goes into
the next batch, and every batch carries the position after its last row, so that a checkpoint can say exactly where
training goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rillet.embeddings import CrossColumns
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, LabelKind
from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt8s, UInt16s

#: partition -> (offset of the next record, rows of it that were already trained on)
Positions = dict[int, tuple[int, int]]
#: columns of a block with one value per row
_ONE_PER_ROW = (
    *("request_index", "impression_ids", "sampling_rate", "label_kind"),
    *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms"),
)


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
        found: Bools = (self.label_kind == LabelKind.PROVISIONAL) | (self.label_kind == LabelKind.CORRECTION)
        return found

    @property
    def late(self) -> Bools:
        """bool[n], True for late positives, whose pair gave a negative before."""
        found: Bools = self.label_kind == LabelKind.LATE_POSITIVE
        return found


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
        self._slots = len(spec.slots)
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
            block = self._cut(block, min(skip_rows, rows), rows)
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
        blocks: list[ExampleBlock] = []
        missing = wanted
        while missing:
            entry = self._pending[0]
            block = entry.block
            if block is None:
                self._pass(positions)
                continue
            count = len(block)
            if count <= missing:
                blocks.append(block)
                missing -= count
                self._pass(positions)
            else:
                blocks.append(self._cut(block, 0, missing))
                entry.block = self._cut(block, missing, count)
                entry.used += missing
                positions[entry.partition] = (entry.offset, entry.used)
                missing = 0
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        self._rows -= wanted
        return self._join(blocks, positions)

    def drain_empty(self) -> Positions:
        """Positions after records without rows at the front of the queue, when there is no batch to carry them."""
        positions: Positions = {}
        while self._pending and self._pending[0].block is None:
            self._pass(positions)
        return positions

    def _pass(self, positions: Positions) -> None:
        entry = self._pending.popleft()
        positions[entry.partition] = (entry.offset + 1, 0)

    def _cut(self, block: ExampleBlock, start: int, stop: int) -> ExampleBlock:
        """Rows ``start`` to ``stop`` of a block, as views."""
        if (start, stop) == (0, len(block)):
            return block

        def rows(column: AnyArray | None, width: int = 1) -> Any:
            return None if column is None else column[start * width : stop * width]

        if block.lengths is None:
            first, last = start * self._slots, stop * self._slots
        else:
            first = int(block.lengths[: start * self._slots].sum(dtype=np.int64))
            last = first + int(rows(block.lengths, self._slots).sum(dtype=np.int64))
        return replace(
            block,
            fids=block.fids[first:last],
            lengths=rows(block.lengths, self._slots),
            dense=rows(block.dense, self._dense),
            labels=rows(block.labels, self._tasks),
            mask=rows(block.mask, self._tasks),
            served_logits=rows(block.served_logits, self._tasks),
            **{name: rows(getattr(block, name)) for name in _ONE_PER_ROW},
        )

    def _join(self, blocks: list[ExampleBlock], positions: Positions) -> Batch:
        # Most blocks have a row or few and are taken whole: one pass per column, nothing per block and column.
        slots, tasks = self._slots, self._tasks
        sampling_rate = np.concatenate([block.sampling_rate for block in blocks])
        rows = len(sampling_rate)
        feature_ms = np.concatenate([block.feature_time_ms for block in blocks])
        action_ms = np.concatenate([block.action_time_ms for block in blocks])
        feature_in = np.concatenate([block.feature_ingest_ms for block in blocks])
        action_in = np.concatenate([block.action_ingest_ms for block in blocks])
        # With lengths in one block and none in another, the latter's slots have one value each.
        lengths = _concatenated(
            [block.lengths for block in blocks], lambda i: np.ones(len(blocks[i]) * slots, np.uint16)
        )
        logits = _concatenated([block.served_logits for block in blocks], lambda i: _nans(len(blocks[i]) * tasks))
        fids, lengths = self._crosses.add(np.concatenate([block.fids for block in blocks]), lengths, rows)
        return Batch(
            fids=fids,
            lengths=lengths,
            dense=np.concatenate([block.dense for block in blocks]).reshape(rows, self._dense),
            labels=np.concatenate([block.labels for block in blocks]).reshape(rows, tasks),
            mask=np.concatenate([block.mask for block in blocks]).reshape(rows, tasks),
            sampling_rate=sampling_rate,
            label_kind=np.concatenate([block.label_kind for block in blocks]),
            feature_time_ms=feature_ms,
            served_logits=(_nans(rows * tasks) if logits is None else logits).reshape(rows, tasks),
            newest_event_ms=int(max(feature_ms.max(), action_ms.max())),
            newest_ingest_ms=int(max(feature_in.max(), action_in.max())),
            action_ingest_ms=action_in[action_in != NO_TIME_MS],
            positions=positions,
        )


def _concatenated(columns: Sequence[AnyArray | None], filling: Callable[[int], AnyArray]) -> Any:
    """The columns one after the other, ``filling(i)`` where the i-th is None; None where all are."""
    if all(column is None for column in columns):
        return None
    return np.concatenate([filling(i) if column is None else column for i, column in enumerate(columns)])


def _nans(count: int) -> Float32s:
    return np.full(count, np.nan, np.float32)

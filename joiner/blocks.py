"""Example blocks from remembered requests: one row for an action, one request at once, many requests of a closing slice.

The form for many requests gathers all columns by array indexing over the concatenated requests, without Python code
per row. The two others are made for every event, so they take slices of the event's own columns; where rows need not go
out with their event, ``joiner/gathering.py`` gathers those of many events for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from rillet.joiner.cuts import cuts
from rillet.joiner.entry import Entry
from rillet.joiner.rows import Positive, Rows
from rillet.joiner.sampling import Columns, Sampling
from rillet.schemas import (
    LABEL_OF_KIND,
    MAX_BLOCK_BYTES,
    NO_TIME_MS,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
)
from rillet.schemas.arrays import Bools, Int64s, UInt8s, UInt16s, range_indices, range_starts


class BlockBuilder:
    """Builds the blocks of one spec. A row teaches one task: mask and labels are one-hot.

    :param block_bytes: encoded bytes of a block of several rows at most, unless one request takes most of them.
    """

    def __init__(self, spec: FeatureSpec, block_bytes: int = MAX_BLOCK_BYTES) -> None:
        self._spec_hash = spec.hash
        self._sizes, self._block_bytes = spec.block_sizes, block_bytes
        #: one value for each slot, for events without lengths; None where no slot of the side has any
        self._context_ones = np.ones(len(spec.context), np.uint16) if spec.context_ragged else None
        self._item_ragged = spec.item_ragged
        self._item_slots = len(spec.item)
        self._dense = len(spec.dense)
        self._tasks = len(spec.tasks)
        self._sampling = Sampling(spec)
        self._one_hot = np.eye(len(spec.tasks), dtype=np.uint8)
        self._provisional = _ProvisionalColumns(len(spec.tasks), 64)

    def positives(self, bucket: int, entry: Entry, rows: Sequence[Positive], block_rows: int) -> list[ExampleBlock]:
        """Positives of one request, in blocks of at most ``block_rows``."""
        if len(rows) == 1:
            return [self._positive(bucket, entry, *rows[0])]
        index = np.array([row.impression for row in rows])
        task = np.array([row.task for row in rows])
        kind = np.array([row.kind for row in rows], np.uint8)
        action_time_ms = np.array([row.action_time_ms for row in rows])
        action_ingest_ms = np.array([row.action_ingest_ms for row in rows])
        return [
            self._request_block(
                bucket,
                entry,
                index[part],
                task[part],
                self._one_hot[task[part]].reshape(-1),
                kind[part],
                action_time_ms[part],
                action_ingest_ms[part],
            )
            for part in self._parts([entry], np.zeros(len(rows), np.int64), index, block_rows)
        ]

    def _positive(
        self,
        bucket: int,
        entry: Entry,
        index: int,
        task: int,
        kind: LabelKind,
        action_time_ms: int,
        action_ingest_ms: int,
    ) -> ExampleBlock:
        """The block of one positive: impression ``index`` of a request."""
        # One row, many times a second: slices of the event's columns, without the arrays of the general form.
        event = entry.event
        fids, lengths = self._row_items(event, index)
        label = self._one_hot[task]
        logits = event.served_logits
        if logits is not None:
            logits = logits[index * self._tasks : (index + 1) * self._tasks]
        contexts = event.context_fids, self._context_lengths(event)
        columns = Columns(0, *contexts, fids, lengths, logits)
        return ExampleBlock(
            spec_hash=self._spec_hash,
            bucket=bucket,
            request_ids=[event.request_id],
            request_index=_FIRST,
            impression_ids=event.impression_ids[index : index + 1],
            context_fids=columns.context_fids,
            context_lengths=columns.context_lengths,
            item_fids=fids,
            item_lengths=lengths,
            dense=event.dense[index * self._dense : (index + 1) * self._dense],
            labels=label,
            mask=label,
            sampling_rate=self._sampling.rate(task, columns),
            label_kind=_KINDS[kind : kind + 1],
            feature_time_ms=np.array([event.event_time_ms]),
            action_time_ms=np.array([action_time_ms]),
            feature_ingest_ms=np.array([entry.ingest_ms]),
            action_ingest_ms=np.array([action_ingest_ms]),
            served_logits=logits,
        )

    def negatives(
        self, bucket: int, entries: Sequence[Entry], indices: Sequence[Int64s], task: int, block_rows: int
    ) -> list[ExampleBlock]:
        """Blocks of at most ``block_rows`` negatives.

        :param indices: for each entry the positions of the impressions to send, int64[k].
        """
        return self.build(bucket, entries, Rows.of_negatives(indices, task), block_rows)

    def aligned(
        self, bucket: int, entries: Sequence[Entry], indices: Sequence[Int64s], task: int, block_rows: int
    ) -> list[ExampleBlock]:
        """Blocks of at most ``block_rows`` positives, whose times the entries have kept, and negatives.

        Rows are in order of entry and impression.

        :param indices: for each entry the positions of the negatives to send, int64[k].
        """
        rows = Rows.of_negatives(indices, task).merged(Rows.of_positives(entries, task))
        return self.build(bucket, entries, rows, block_rows)

    def provisional(
        self, bucket: int, entry: Entry, tasks: Sequence[int], chosen: Bools, block_rows: int
    ) -> list[ExampleBlock]:
        """The provisional negatives of one request, task after task, in blocks of at most ``block_rows``.

        :param tasks: k numbers of tasks, ascending.
        :param chosen: bool[k, N], for each of them which of the N impressions to send.
        """
        # Made for every request, so nothing here is done per task.
        which, every = chosen.nonzero()
        if len(tasks) < self._tasks:
            which = np.array(tasks)[which]
        blocks = []
        for part in self._parts([entry], np.zeros(len(every), np.int64), every, block_rows):
            k = part.stop - part.start
            if k > self._provisional.capacity:
                self._provisional = _ProvisionalColumns(self._tasks, 2 * k)
            same = self._provisional
            labels, kind, no_time = same.labels[: k * self._tasks], same.kind[:k], same.no_time[:k]
            blocks.append(self._request_block(bucket, entry, every[part], which[part], labels, kind, no_time, no_time))
        return blocks

    def _request_block(
        self,
        bucket: int,
        entry: Entry,
        index: Int64s,
        task: Int64s,
        labels: UInt8s,
        kind: UInt8s,
        action_time_ms: Int64s,
        action_ingest_ms: Int64s,
    ) -> ExampleBlock:
        """The block of k rows of one request."""
        event, width = entry.event, self._tasks
        n, k = len(event.impression_ids), len(index)
        dense, logits = event.dense, event.served_logits
        context_lengths = self._context_lengths(event)
        fids, lengths = self._items(event, index)
        if logits is not None:
            logits = logits.reshape(n, width)[index].reshape(-1)
        columns = Columns(0, event.context_fids, context_lengths, fids, lengths, logits)
        return ExampleBlock(
            spec_hash=self._spec_hash,
            bucket=bucket,
            request_ids=[event.request_id],
            request_index=np.zeros(k, np.int32),
            impression_ids=event.impression_ids[index],
            context_fids=event.context_fids,
            context_lengths=context_lengths,
            item_fids=fids,
            item_lengths=lengths,
            dense=dense.reshape(n, self._dense)[index].reshape(-1) if self._dense else dense,
            labels=labels,
            mask=self._one_hot[task].reshape(-1),
            sampling_rate=self._sampling.rates(task, columns),
            label_kind=kind,
            feature_time_ms=np.full(k, event.event_time_ms),
            action_time_ms=action_time_ms,
            feature_ingest_ms=np.full(k, entry.ingest_ms),
            action_ingest_ms=action_ingest_ms,
            served_logits=logits,
        )

    def build(self, bucket: int, entries: Sequence[Entry], rows: Rows, block_rows: int) -> list[ExampleBlock]:
        """Blocks of at most ``block_rows`` of any rows."""
        return [
            self._block(bucket, entries, rows, part)
            for part in self._parts(entries, rows.request, rows.index, block_rows)
        ]

    def _parts(self, entries: Sequence[Entry], request: Int64s, index: Int64s, block_rows: int) -> list[slice]:
        """Where rows are cut into blocks.

        :param request: int64[n], which entry each row is of, in order; index: int64[n], which impression of it.
        """
        parts = []
        for start in range(0, len(index), block_rows):
            part = slice(start, min(start + block_rows, len(index)))
            first, last = int(request[start]), int(request[part.stop - 1]) + 1
            sizes = [self._sizes.request(entry.event) for entry in entries[first:last]]
            widest = self._sizes.head_bytes + (part.stop - start) * self._sizes.widest_row + sum(sizes)
            if widest <= self._block_bytes:
                parts.append(part)
                continue
            of, fids = request[part] - first, np.empty(part.stop - start, np.int64)
            for number in np.unique(of).tolist():
                chosen = of == number
                fids[chosen] = self._item_counts(entries[first + number].event)[index[part][chosen]]
            most, largest = self._block_bytes - self._sizes.head_bytes, MAX_BLOCK_BYTES - self._sizes.head_bytes
            found = cuts(of, self._sizes.rows(fids), np.array(sizes, np.int64), block_rows, most, largest)
            parts += [slice(start + cut.start, start + cut.stop) for cut in found]
        return parts

    def _block(self, bucket: int, every: Sequence[Entry], rows: Rows, part: slice) -> ExampleBlock:
        """The block of ``part`` of the rows, with the entries that it needs."""
        index = rows.index[part]
        needed, request = np.unique(rows.request[part], return_inverse=True)
        entries = [every[number] for number in needed.tolist()]
        task, kind = rows.task[part], rows.kind[part]
        events = [entry.event for entry in entries]
        sizes = np.fromiter((len(e.impression_ids) for e in events), np.int64, len(events))
        impression = index + range_starts(sizes)[request]
        mask = self._one_hot[task]
        labels = mask * LABEL_OF_KIND[kind][:, None]
        item_fids, item_lengths = self._items_of(events, impression, int(sizes.sum()))
        context_lengths = None
        if self._context_ones is not None:
            ones = self._context_ones
            context_lengths = np.concatenate([ones if e.context_lengths is None else e.context_lengths for e in events])
        dense = (
            np.concatenate([e.dense for e in events]).reshape(-1, self._dense)[impression] if self._dense else _EMPTY
        )
        context_fids = np.concatenate([e.context_fids for e in events])
        logits = None
        if any(e.served_logits is not None for e in events):
            logits = (
                np.concatenate(
                    [
                        np.full(size * self._tasks, np.nan, np.float32) if e.served_logits is None else e.served_logits
                        for e, size in zip(events, sizes, strict=True)
                    ]
                )
                .reshape(-1, self._tasks)[impression]
                .reshape(-1)
            )
        columns = Columns(request, context_fids, context_lengths, item_fids, item_lengths, logits)
        return ExampleBlock(
            spec_hash=self._spec_hash,
            bucket=bucket,
            request_ids=[e.request_id for e in events],
            request_index=request.astype(np.int32),
            impression_ids=np.concatenate([e.impression_ids for e in events])[impression],
            context_fids=context_fids,
            context_lengths=context_lengths,
            item_fids=item_fids,
            item_lengths=item_lengths,
            dense=dense.reshape(-1),
            labels=labels.reshape(-1),
            mask=mask.reshape(-1),
            sampling_rate=self._sampling.rates(task, columns),
            label_kind=kind,
            feature_time_ms=np.array([e.event_time_ms for e in events], np.int64)[request],
            action_time_ms=rows.action_time_ms[part],
            feature_ingest_ms=np.array([entry.ingest_ms for entry in entries], np.int64)[request],
            action_ingest_ms=rows.action_ingest_ms[part],
            served_logits=logits,
        )

    def _context_lengths(self, event: FeatureEvent) -> UInt16s | None:
        if self._context_ones is None:
            return None
        return self._context_ones if event.context_lengths is None else event.context_lengths

    def _item_counts(self, event: FeatureEvent) -> Int64s:
        """Item fids of each of N impressions, int64[N]."""
        n = len(event.impression_ids)
        if event.item_lengths is None:
            return np.full(n, self._item_slots)
        counts: Int64s = event.item_lengths.reshape(n, -1).sum(axis=1, dtype=np.int64)
        return counts

    def _row_items(self, event: FeatureEvent, index: int) -> tuple[Int64s, UInt16s | None]:
        """Item fids and lengths of one impression."""
        slots = self._item_slots
        if event.item_lengths is None:
            item = event.item_fids[index * slots : (index + 1) * slots]
            return item, np.ones(slots, np.uint16) if self._item_ragged else None
        lengths = event.item_lengths[index * slots : (index + 1) * slots]
        start = int(np.add.reduce(event.item_lengths[: index * slots], dtype=np.int64))
        return event.item_fids[start : start + sum(lengths.tolist())], lengths if self._item_ragged else None

    def _items(self, event: FeatureEvent, index: Int64s) -> tuple[Int64s, UInt16s | None]:
        """Item fids and lengths of impressions ``index`` int64[k] of one event."""
        n, slots = len(event.impression_ids), self._item_slots
        if event.item_lengths is None:
            fids = event.item_fids.reshape(n, slots)[index].reshape(-1)
            return fids, np.ones(len(index) * slots, np.uint16) if self._item_ragged else None
        lengths = event.item_lengths.reshape(n, slots)[index].reshape(-1) if self._item_ragged else None
        # Joined as bytes, the fastest form of a concatenation of many short parts.
        ends = [8 * end for end in accumulate(event.item_lengths.tolist())][slots - 1 :: slots] if slots else [0] * n
        item = event.item_fids.tobytes()
        rows = [item[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return np.frombuffer(b"".join([rows[i] for i in index.tolist()]), np.int64), lengths

    def _items_of(
        self, events: Sequence[FeatureEvent], impression: Int64s, impressions: int
    ) -> tuple[Int64s, UInt16s | None]:
        """Item fids and lengths of rows, by their place ``impression`` int64[k] among the impressions of all events."""
        item = np.concatenate([e.item_fids for e in events])
        if not self._item_ragged:
            return item.reshape(impressions, -1)[impression].reshape(-1), None
        sizes = [len(e.impression_ids) * self._item_slots for e in events]
        lengths = _lengths([e.item_lengths for e in events], sizes).reshape(impressions, -1)
        counts = lengths.sum(axis=1, dtype=np.int64)
        fids = item[range_indices(range_starts(counts)[impression], counts[impression])]
        return fids, lengths[impression].reshape(-1)


class _ProvisionalColumns:
    """Columns that are the same in all blocks of provisional negatives: up to ``capacity`` rows, read-only."""

    __slots__ = ("capacity", "kind", "labels", "no_time")

    def __init__(self, tasks: int, capacity: int) -> None:
        self.capacity = capacity
        self.kind = np.full(capacity, LabelKind.PROVISIONAL, np.uint8)
        self.no_time = np.full(capacity, NO_TIME_MS, np.int64)
        self.labels = np.zeros(capacity * tasks, np.uint8)
        for column in (self.kind, self.no_time, self.labels):
            column.setflags(write=False)


_EMPTY = np.empty(0, np.float32)
_FIRST = np.zeros(1, np.int32)
#: every kind at its own place
_KINDS = np.arange(len(LabelKind), dtype=np.uint8)


def _lengths(columns: Sequence[UInt16s | None], sizes: Sequence[int]) -> UInt16s:
    parts = [np.ones(size, np.uint16) if c is None else c for c, size in zip(columns, sizes, strict=True)]
    return np.concatenate(parts)

"""Example blocks from remembered requests: one row for an action, one request at once, many requests of a closing slice.

The form for many requests gathers all columns by array indexing over the concatenated requests, without Python code
per row. The two others are made for every event, so they take slices of the event's own columns; where rows need not go
out with their event, ``joiner/gathering.py`` gathers those of many events for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from rillet.joiner.entry import TIMES, Entry
from rillet.schemas import LABEL_OF_KIND, NO_TIME_MS, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from rillet.schemas.arrays import Bools, Int64s, UInt8s, UInt16s, range_indices, range_starts


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which rows blocks are made of: row i is impression ``index[i]`` of request ``request[i]``."""

    request: Int64s
    index: Int64s
    task: Int64s
    kind: UInt8s
    action_time_ms: Int64s
    action_ingest_ms: Int64s

    @classmethod
    def of_negatives(cls, indices: Sequence[Int64s], task: int) -> Rows:
        """Negatives of a task, request after request."""
        counts = np.fromiter((len(i) for i in indices), np.int64, len(indices))
        index = np.concatenate(indices) if len(indices) else np.empty(0, np.int64)
        no_time = np.full(len(index), NO_TIME_MS, np.int64)
        kind = np.full(len(index), LabelKind.NEGATIVE, np.uint8)
        request, tasks = np.repeat(np.arange(len(indices)), counts), np.full(len(index), task)
        return cls(request, index, tasks, kind, no_time, no_time)

    @classmethod
    def of_positives(cls, entries: Sequence[Entry], task: int) -> Rows:
        """The positives of a task whose times the entries have kept."""
        times = np.frombuffer(b"".join(entry.times for entry in entries), TIMES)
        counts = np.fromiter((len(entry.times) // TIMES.itemsize for entry in entries), np.int64, len(entries))
        sizes = np.fromiter((len(entry.event.impression_ids) for entry in entries), np.int64, len(entries))
        request = np.repeat(np.arange(len(entries)), counts)
        of_task, index = np.divmod(times["pair"].astype(np.int64), sizes[request])
        keep = of_task == task
        kind = np.full(int(keep.sum()), LabelKind.POSITIVE, np.uint8)
        action_time_ms, action_ingest_ms = times["action_time_ms"][keep], times["action_ingest_ms"][keep]
        return cls(request[keep], index[keep], of_task[keep], kind, action_time_ms, action_ingest_ms)

    def merged(self, other: Rows) -> Rows:
        """Both, in order of request and impression."""
        request, index = np.concatenate([self.request, other.request]), np.concatenate([self.index, other.index])
        order = np.lexsort((index, request))
        return Rows(
            request[order],
            index[order],
            np.concatenate([self.task, other.task])[order],
            np.concatenate([self.kind, other.kind])[order],
            np.concatenate([self.action_time_ms, other.action_time_ms])[order],
            np.concatenate([self.action_ingest_ms, other.action_ingest_ms])[order],
        )


class BlockBuilder:
    """Builds the blocks of one spec. A row teaches one task: mask and labels are one-hot."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec_hash = spec.hash
        self._ragged = spec.ragged
        self._context_slots = len(spec.context)
        self._context_ones = np.ones(len(spec.context), np.uint16)
        self._item_slots = len(spec.item)
        self._dense = len(spec.dense)
        self._tasks = len(spec.tasks)
        self._rates = np.array([task.negative_rate for task in spec.tasks], np.float32)
        self._one_hot = np.eye(len(spec.tasks), dtype=np.uint8)
        self._provisional = _ProvisionalColumns(len(spec.tasks), 64)

    def positive(
        self,
        bucket: int,
        entry: Entry,
        index: int,
        task: int,
        kind: LabelKind,
        action_time_ms: int,
        action_ingest_ms: int,
    ) -> list[ExampleBlock]:
        """The block of one positive: impression ``index`` of a request."""
        # One row, many times a second: slices of the event's columns, without the arrays of the general form.
        event = entry.event
        fids, lengths = self._row_fids(event, index)
        label = self._one_hot[task]
        tasks = slice(index * self._tasks, (index + 1) * self._tasks)
        block = ExampleBlock(
            spec_hash=self._spec_hash,
            bucket=bucket,
            request_ids=[event.request_id],
            request_index=_FIRST,
            impression_ids=event.impression_ids[index : index + 1],
            fids=fids,
            lengths=lengths,
            dense=event.dense[index * self._dense : (index + 1) * self._dense],
            labels=label,
            mask=label,
            sampling_rate=self._rates[task : task + 1],
            label_kind=_KINDS[kind : kind + 1],
            feature_time_ms=np.array([event.event_time_ms]),
            action_time_ms=np.array([action_time_ms]),
            feature_ingest_ms=np.array([entry.ingest_ms]),
            action_ingest_ms=np.array([action_ingest_ms]),
            served_logits=None if event.served_logits is None else event.served_logits[tasks],
        )
        return [block]

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
        # Made for every request, so nothing here is done per task; fids are joined as bytes, the fastest form of a
        # concatenation of many short parts.
        event, width = entry.event, self._tasks
        n = len(event.impression_ids)
        which, every = chosen.nonzero()
        if len(tasks) < width:
            which = np.array(tasks)[which]
        fids, lengths = self._request_rows(event)
        dense, logits = event.dense, event.served_logits
        blocks = []
        for start in range(0, len(every), block_rows):
            index, task = every[start : start + block_rows], which[start : start + block_rows]
            k = len(index)
            if k > self._provisional.capacity:
                self._provisional = _ProvisionalColumns(width, 2 * k)
            column = self._provisional
            blocks.append(
                ExampleBlock(
                    spec_hash=self._spec_hash,
                    bucket=bucket,
                    request_ids=[event.request_id],
                    request_index=column.request_index[:k],
                    impression_ids=event.impression_ids[index],
                    fids=np.frombuffer(b"".join([fids[i] for i in index.tolist()]), np.int64),
                    lengths=None if lengths is None else lengths[index].reshape(-1),
                    dense=dense.reshape(n, self._dense)[index].reshape(-1) if self._dense else dense,
                    labels=column.labels[: k * width],
                    mask=self._one_hot[task].reshape(-1),
                    sampling_rate=self._rates[task],
                    label_kind=column.kind[:k],
                    feature_time_ms=np.full(k, event.event_time_ms),
                    action_time_ms=column.no_time[:k],
                    feature_ingest_ms=np.full(k, entry.ingest_ms),
                    action_ingest_ms=column.no_time[:k],
                    served_logits=None if logits is None else logits.reshape(n, width)[index].reshape(-1),
                )
            )
        return blocks

    def build(self, bucket: int, entries: Sequence[Entry], rows: Rows, block_rows: int) -> list[ExampleBlock]:
        """Blocks of at most ``block_rows`` of any rows."""
        blocks = []
        for start in range(0, len(rows.index), block_rows):
            part = slice(start, start + block_rows)
            first, last = rows.request[part][0], rows.request[part][-1] + 1
            blocks.append(self._block(bucket, entries[first:last], rows, part, int(first)))
        return blocks

    def _block(self, bucket: int, entries: Sequence[Entry], rows: Rows, part: slice, first: int) -> ExampleBlock:
        """The block of ``part`` of the rows; ``entries`` are those that it needs, beginning with number ``first``."""
        index, request = rows.index[part], rows.request[part] - first
        task, kind = rows.task[part], rows.kind[part]
        events = [entry.event for entry in entries]
        sizes = np.fromiter((len(e.impression_ids) for e in events), np.int64, len(events))
        impression = index + range_starts(sizes)[request]
        mask = self._one_hot[task]
        labels = mask * LABEL_OF_KIND[kind][:, None]
        fids, lengths = self._fids(entries, impression, request, int(sizes.sum()))
        dense = (
            np.concatenate([e.dense for e in events]).reshape(-1, self._dense)[impression] if self._dense else _EMPTY
        )
        logits = None
        if any(e.served_logits is not None for e in events):
            logits = np.concatenate(
                [
                    np.full(size * self._tasks, np.nan, np.float32) if e.served_logits is None else e.served_logits
                    for e, size in zip(events, sizes, strict=True)
                ]
            ).reshape(-1, self._tasks)[impression]
        return ExampleBlock(
            spec_hash=self._spec_hash,
            bucket=bucket,
            request_ids=[e.request_id for e in events],
            request_index=request.astype(np.int32),
            impression_ids=np.concatenate([e.impression_ids for e in events])[impression],
            fids=fids,
            lengths=lengths,
            dense=dense.reshape(-1),
            labels=labels.reshape(-1),
            mask=mask.reshape(-1),
            sampling_rate=self._rates[task],
            label_kind=kind,
            feature_time_ms=np.array([e.event_time_ms for e in events], np.int64)[request],
            action_time_ms=rows.action_time_ms[part],
            feature_ingest_ms=np.array([entry.ingest_ms for entry in entries], np.int64)[request],
            action_ingest_ms=rows.action_ingest_ms[part],
            served_logits=None if logits is None else logits.reshape(-1),
        )

    def _row_fids(self, event: FeatureEvent, index: int) -> tuple[Int64s, UInt16s | None]:
        """Fids and lengths of one impression, context first."""
        slots = self._item_slots
        if event.item_lengths is None:
            item = event.item_fids[index * slots : (index + 1) * slots]
            item_lengths = np.ones(slots, np.uint16)
        else:
            item_lengths = event.item_lengths[index * slots : (index + 1) * slots]
            start = int(np.add.reduce(event.item_lengths[: index * slots], dtype=np.int64))
            item = event.item_fids[start : start + sum(item_lengths.tolist())]
        fids = np.concatenate([event.context_fids, item])
        if not self._ragged:
            return fids, None
        context_lengths = self._context_ones if event.context_lengths is None else event.context_lengths
        return fids, np.concatenate([context_lengths, item_lengths])

    def _request_rows(self, event: FeatureEvent) -> tuple[list[bytes], UInt16s | None]:
        """Fids of each impression of a request, context first, as the bytes of int64; and lengths uint16[n, S]."""
        n, slots = len(event.impression_ids), self._item_slots
        context, item = event.context_fids.tobytes(), event.item_fids.tobytes()
        if event.item_lengths is None:
            ends = [slots * 8 * i for i in range(1, n + 1)]
        else:
            ends = (
                [8 * end for end in accumulate(event.item_lengths.tolist())][slots - 1 :: slots] if slots else [0] * n
            )
        fids = [context + item[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if not self._ragged:
            return fids, None
        lengths = np.ones((n, self._context_slots + slots), np.uint16)
        if event.context_lengths is not None:
            lengths[:, : self._context_slots] = event.context_lengths
        if event.item_lengths is not None:
            lengths[:, self._context_slots :] = event.item_lengths.reshape(n, slots)
        return fids, lengths

    def _fids(
        self, entries: Sequence[Entry], impression: Int64s, request: Int64s, impressions: int
    ) -> tuple[Int64s, UInt16s | None]:
        """Context and item fids of each row, one after the other, with their lengths when the spec is ragged."""
        events = [entry.event for entry in entries]
        context = np.concatenate([e.context_fids for e in events])
        item = np.concatenate([e.item_fids for e in events])
        if not self._ragged:
            rows = (context.reshape(len(events), -1)[request], item.reshape(impressions, -1)[impression])
            return np.concatenate(rows, axis=1).reshape(-1), None
        context_lengths = _lengths([e.context_lengths for e in events], [self._context_slots] * len(events))
        item_lengths = _lengths(
            [e.item_lengths for e in events], [len(e.impression_ids) * self._item_slots for e in events]
        )
        context_2d = context_lengths.reshape(len(events), -1)
        item_2d = item_lengths.reshape(impressions, -1)
        context_counts, item_counts = context_2d.sum(axis=1, dtype=np.int64), item_2d.sum(axis=1, dtype=np.int64)
        # A row is two stretches of the concatenated fids: its request's context, then its impression's items.
        starts = np.stack(
            [range_starts(context_counts)[request], len(context) + range_starts(item_counts)[impression]], axis=1
        )
        counts = np.stack([context_counts[request], item_counts[impression]], axis=1)
        fids = np.concatenate([context, item])[range_indices(starts.reshape(-1), counts.reshape(-1))]
        lengths = np.concatenate([context_2d[request], item_2d[impression]], axis=1)
        return fids, lengths.reshape(-1)


class _ProvisionalColumns:
    """Columns that are the same in all blocks of provisional negatives: up to ``capacity`` rows, read-only."""

    __slots__ = ("capacity", "kind", "labels", "no_time", "request_index")

    def __init__(self, tasks: int, capacity: int) -> None:
        self.capacity = capacity
        self.request_index = np.zeros(capacity, np.int32)
        self.kind = np.full(capacity, LabelKind.PROVISIONAL, np.uint8)
        self.no_time = np.full(capacity, NO_TIME_MS, np.int64)
        self.labels = np.zeros(capacity * tasks, np.uint8)
        for column in (self.request_index, self.kind, self.no_time, self.labels):
            column.setflags(write=False)


_EMPTY = np.empty(0, np.float32)
_FIRST = np.zeros(1, np.int32)
#: every kind at its own place
_KINDS = np.arange(len(LabelKind), dtype=np.uint8)


def _lengths(columns: Sequence[UInt16s | None], sizes: Sequence[int]) -> UInt16s:
    parts = [np.ones(size, np.uint16) if c is None else c for c, size in zip(columns, sizes, strict=True)]
    return np.concatenate(parts)

"""Example blocks from remembered requests: one row at once for a positive, many rows for a closing slice.

The many-row form gathers all columns by array indexing over the concatenated requests, without Python code per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rillet.joiner.entry import Entry
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from rillet.schemas.arrays import Int64s, UInt16s, range_indices, range_starts


class BlockBuilder:
    """Builds the blocks of one spec. A row teaches one task: mask and labels are one-hot."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec_hash = spec.hash
        self._ragged = spec.ragged
        self._context_slots = len(spec.context)
        self._item_slots = len(spec.item)
        self._dense = len(spec.dense)
        self._tasks = len(spec.tasks)
        self._rates = np.array([task.negative_rate for task in spec.tasks], np.float32)
        self._one_hot = np.eye(len(spec.tasks), dtype=np.uint8)

    def positive(
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
        fids, lengths = self._row_fids(event, index)
        label = self._one_hot[task]
        tasks = slice(index * self._tasks, (index + 1) * self._tasks)
        return ExampleBlock(
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
            label_kind=np.array([kind], np.uint8),
            feature_time_ms=np.array([event.event_time_ms]),
            action_time_ms=np.array([action_time_ms]),
            feature_ingest_ms=np.array([entry.ingest_ms]),
            action_ingest_ms=np.array([action_ingest_ms]),
            served_logits=None if event.served_logits is None else event.served_logits[tasks],
        )

    def negatives(
        self, bucket: int, entries: Sequence[Entry], indices: Sequence[Int64s], task: int, block_rows: int
    ) -> list[ExampleBlock]:
        """Blocks of at most ``block_rows`` negatives.

        :param indices: for each entry the positions of the impressions to send, int64[k].
        """
        counts = np.fromiter((len(i) for i in indices), np.int64, len(indices))
        request = np.repeat(np.arange(len(entries)), counts)
        index = np.concatenate(indices) if len(indices) else np.empty(0, np.int64)
        blocks = []
        for start in range(0, len(index), block_rows):
            rows = slice(start, start + block_rows)
            first, last = request[rows][0], request[rows][-1] + 1
            part = entries[first:last]
            blocks.append(self._negative_block(bucket, part, index[rows], request[rows] - first, task))
        return blocks

    def _negative_block(
        self, bucket: int, entries: Sequence[Entry], index: Int64s, request: Int64s, task: int
    ) -> ExampleBlock:
        """Row i is impression ``index[i]`` of ``entries[request[i]]``."""
        n = len(index)
        events = [entry.event for entry in entries]
        sizes = np.fromiter((len(e.impression_ids) for e in events), np.int64, len(events))
        impression = index + range_starts(sizes)[request]
        no_time = np.full(n, NO_TIME_MS, np.int64)
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
            labels=np.zeros(n * self._tasks, np.uint8),
            mask=np.tile(self._one_hot[task], n),
            sampling_rate=np.full(n, self._rates[task], np.float32),
            label_kind=np.full(n, LabelKind.NEGATIVE, np.uint8),
            feature_time_ms=np.array([e.event_time_ms for e in events], np.int64)[request],
            action_time_ms=no_time,
            feature_ingest_ms=np.array([entry.ingest_ms for entry in entries], np.int64)[request],
            action_ingest_ms=no_time,
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
            start = int(event.item_lengths[: index * slots].sum())
            item = event.item_fids[start : start + int(item_lengths.sum())]
        fids = np.concatenate([event.context_fids, item])
        if not self._ragged:
            return fids, None
        context_lengths = event.context_lengths
        if context_lengths is None:
            context_lengths = np.ones(self._context_slots, np.uint16)
        return fids, np.concatenate([context_lengths, item_lengths])

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


_EMPTY = np.empty(0, np.float32)
_FIRST = np.zeros(1, np.int32)


def _lengths(columns: Sequence[UInt16s | None], sizes: Sequence[int]) -> UInt16s:
    parts = [np.ones(size, np.uint16) if c is None else c for c, size in zip(columns, sizes, strict=True)]
    return np.concatenate(parts)

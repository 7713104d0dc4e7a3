"""Example blocks as columns of many rows at once, and the fids that impressions should have; pure array work.

The audit compares whole columns with what the plain join expects.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec
from rillet.schemas.arrays import AnyArray, Bools, Int64s, UInt16s, range_indices
from rillet.schemas.conversion import SpecConversion, take_columns
from rillet.schemas.example_rows import fids_of_blocks, join_rows


def stack_columns(blocks: list[ExampleBlock], expected: ExpectedExamples, spec: FeatureSpec) -> dict[str, Any]:
    """The columns of a spec's blocks, concatenated; absent ones filled with what they stand for.

    Beside the record's own: ``request`` int64[n] (number in ``expected``, -1 unknown), ``request_ids`` with
    ``request_at`` int64[n] into it, ``has_lengths`` bool[n] (present exactly on the sides of the spec that are ragged),
    ``fid_counts`` and ``fid_ends`` int64[n], ``bucket`` int64[n].
    """
    slots, tasks = len(spec.slots), len(spec.tasks)
    sizes = [len(block) for block in blocks]
    column: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in (
            *("impression_ids", "dense", "labels", "mask", "sampling_rate", "label_kind"),
            *("feature_time_ms", "action_time_ms", "feature_ingest_ms", "action_ingest_ms"),
        )
    }
    request_ids = [request_id for block in blocks for request_id in block.request_ids]
    first = np.cumsum([0] + [len(block.request_ids) for block in blocks])
    request_at = np.concatenate([block.request_index + at for block, at in zip(blocks, first, strict=False)])
    numbers = np.array([expected.number_of.get(request_id, -1) for request_id in request_ids], np.int64)
    column["request_ids"], column["request_at"], column["request"] = request_ids, request_at, numbers[request_at]
    column["fids"], lengths = fids_of_blocks(blocks, spec)
    column["lengths"] = np.ones(sum(sizes) * slots, np.uint16) if lengths is None else lengths
    column["bucket"] = np.repeat(np.array([block.bucket for block in blocks], np.int64), sizes)
    ragged = (spec.context_ragged, spec.item_ragged)
    column["has_lengths"] = np.repeat(
        [(b.context_lengths is not None, b.item_lengths is not None) == ragged for b in blocks], sizes
    )
    column["served_logits"] = np.concatenate(
        [
            np.full(n * tasks, np.nan, np.float32) if b.served_logits is None else b.served_logits
            for b, n in zip(blocks, sizes, strict=True)
        ]
    )
    column["fid_counts"] = column["lengths"].reshape(-1, slots).sum(axis=1, dtype=np.int64)
    column["fid_ends"] = np.cumsum(column["fid_counts"])
    return column


def due_columns(
    expected: ExpectedExamples,
    rows: Int64s,
    task: Int64s,
    label: Bools,
    conversion: SpecConversion | None = None,
) -> dict[str, AnyArray]:
    """What columns of n rows should hold besides fids, kinds and rates, given their tasks and labels, [n] or [n, k].

    :param conversion: see :func:`due_fids`.
    """
    requests, n = expected.request[rows], len(rows)
    dense, logits = expected.dense[rows], expected.served_logits[rows]
    if conversion is not None:
        dense = conversion.dense(dense, n).reshape(n, -1)
        logits = take_columns(logits, n, conversion.tasks, np.nan).reshape(n, -1)
    return {
        "feature_time_ms": expected.feature_time_ms[requests],
        "feature_ingest_ms": expected.feature_ingest_ms[requests],
        "action_time_ms": np.where(label, expected.action_time_ms[rows, task], NO_TIME_MS),
        "action_ingest_ms": np.where(label, expected.action_ingest_ms[rows, task], NO_TIME_MS),
        "dense": dense,
        "served_logits": logits,
    }


def due_fids(
    expected: ExpectedExamples, requests: Int64s, rows: Int64s, conversion: SpecConversion | None = None
) -> tuple[Int64s, UInt16s]:
    """Context and item fids of n > 0 impressions, one row after the other, and how many values each slot has, uint16[n, S].

    :param conversion: to the spec under which the rows went out, where it is another one.
    """
    used, at = np.unique(requests, return_inverse=True)
    context, item = (
        fids[range_indices(start[chosen], start[chosen + 1] - start[chosen])]
        for fids, start, chosen in (
            (expected.context_fids, expected.context_start, used),
            (expected.item_fids, expected.item_start, rows),
        )
    )
    context_lengths: UInt16s | None = expected.context_lengths[used].reshape(-1)
    item_lengths: UInt16s | None = expected.item_lengths[rows].reshape(-1)
    if conversion is not None:
        context, context_lengths = conversion.context(context, context_lengths, len(used))
        item, item_lengths = conversion.item(item, item_lengths, len(rows))
    fids, lengths = join_rows(context, context_lengths, item, item_lengths, at, len(used))
    if lengths is None:
        lengths = np.ones(len(fids), np.uint16)
    return fids, lengths.reshape(len(rows), -1)

"""Example blocks as columns of many rows at once, and the fids that impressions should have; pure array work.

The audit compares whole columns with what the plain join expects.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas import ExampleBlock
from rillet.schemas.arrays import Int64s, range_indices
from rillet.schemas.example_rows import fids_of_blocks


def stack_columns(blocks: list[ExampleBlock], expected: ExpectedExamples) -> dict[str, Any]:
    """The blocks' columns, concatenated; absent ones filled with what they stand for.

    Beside the record's own: ``request`` int64[n] (number in ``expected``, -1 unknown), ``request_ids`` with
    ``request_at`` int64[n] into it, ``has_lengths`` bool[n] (present exactly on the sides of the spec that are ragged),
    ``fid_counts`` and ``fid_ends`` int64[n], ``bucket`` int64[n].
    """
    spec = expected.spec
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


def due_fids(expected: ExpectedExamples, requests: Int64s, rows: Int64s) -> Int64s:
    """Context and item fids of impressions, one row after the other."""
    context = expected.context_start[requests + 1] - expected.context_start[requests]
    item = expected.item_start[rows + 1] - expected.item_start[rows]
    starts = np.stack(
        (expected.context_start[requests], expected.item_start[rows] + len(expected.context_fids)), axis=1
    )
    sizes = np.stack((context, item), axis=1)
    both = np.concatenate((expected.context_fids, expected.item_fids))
    fids: Int64s = both[range_indices(starts.reshape(-1), sizes.reshape(-1))]
    return fids

"""The fids of example rows in two forms: context once per request and items per row, or all of a row together.

The first is how a block holds them, since a long context would otherwise be there once per row; the second is what a
model reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rillet.schemas.arrays import AnyArray, Bools, Int32s, Int64s, UInt16s, range_indices, range_starts

if TYPE_CHECKING:
    from rillet.schemas.records import ExampleBlock
    from rillet.schemas.spec import FeatureSpec


def join_rows(
    context_fids: Int64s,
    context_lengths: UInt16s | None,
    item_fids: Int64s,
    item_lengths: UInt16s | None,
    request: AnyArray,
    requests: int,
) -> tuple[Int64s, UInt16s | None]:
    """The fids of each row, its request's context first, and how many values each slot has; None: one each.

    :param context_fids: int64, of R requests, with context_lengths uint16[R x Sc].
    :param item_fids: int64, of n rows, with item_lengths uint16[n x Si].
    :param request: int[n], number of each row's request.
    :param requests: R.
    :raises ValueError: the columns do not divide into so many requests and rows.
    :raises IndexError: a request is none of R.

    >>> fids, lengths = join_rows(np.array([1, 2]), None, np.array([7, 8, 9]), None, np.array([0, 1, 1]), 2)
    >>> fids.tolist(), lengths
    ([1, 7, 2, 8, 2, 9], None)
    """
    n = len(request)
    if not n:
        return item_fids[:0], None if item_lengths is None and context_lengths is None else np.empty(0, np.uint16)
    if context_lengths is None and item_lengths is None:
        rows = (context_fids.reshape(requests, -1)[request], item_fids.reshape(n, -1))
        return np.concatenate(rows, axis=1).reshape(-1), None
    contexts, items = (
        np.ones((count, len(fids) // count), np.uint16) if lengths is None else lengths.reshape(count, -1)
        for fids, lengths, count in ((context_fids, context_lengths, requests), (item_fids, item_lengths, n))
    )
    context_counts, item_counts = (side.sum(axis=1, dtype=np.int64) for side in (contexts, items))
    # A row is two stretches of the concatenated fids: its request's context, then its own items.
    starts = np.stack([range_starts(context_counts)[request], len(context_fids) + range_starts(item_counts)], axis=1)
    counts = np.stack([context_counts[request], item_counts], axis=1)
    fids = np.concatenate([context_fids, item_fids])[range_indices(starts.reshape(-1), counts.reshape(-1))]
    return fids, np.concatenate([contexts[request], items], axis=1).reshape(-1)


def fids_of_blocks(blocks: Sequence[ExampleBlock], spec: FeatureSpec) -> tuple[Int64s, UInt16s | None]:
    """See :func:`join_rows`, of the rows of several checked blocks, one after the other."""
    requests = np.array([len(block.request_ids) for block in blocks])
    rows = np.array([len(block) for block in blocks])
    return join_rows(
        np.concatenate([block.context_fids for block in blocks]),
        _lengths([block.context_lengths for block in blocks], requests * len(spec.context)),
        np.concatenate([block.item_fids for block in blocks]),
        _lengths([block.item_lengths for block in blocks], rows * len(spec.item)),
        np.concatenate([block.request_index for block in blocks]) + np.repeat(range_starts(requests), rows),
        int(requests.sum()),
    )


def split_rows(
    spec: FeatureSpec, request_ids: Sequence[str], request: AnyArray, fids: Int64s, lengths: UInt16s | None
) -> dict[str, Any]:
    """The columns of an ExampleBlock for rows whose fids are together.

    Consecutive rows of one request with the same context share it; a request may so be there more than once.

    :param request: int[n], place of each row's request in ``request_ids``.
    :param fids: int64, row after row; lengths: uint16[n x S], None: one value each.
    :returns: ``request_ids``, ``request_index`` and the four columns of fids and lengths.
    :raises ValueError: the fids do not divide into n rows.
    """
    n, slots, of_context = len(request), len(spec.slots), len(spec.context)
    per_slot = (np.ones(n * slots, np.uint16) if lengths is None else lengths).reshape(n, slots)
    contexts, items = per_slot[:, :of_context], per_slot[:, of_context:]
    context_counts, item_counts = (side.sum(axis=1, dtype=np.int64) for side in (contexts, items))
    starts = range_starts(context_counts + item_counts)
    first = _first_of_runs(request, contexts, fids, starts, context_counts)
    chosen = np.flatnonzero(first)
    return {
        "request_ids": [request_ids[at] for at in np.asarray(request)[chosen].tolist()],
        "request_index": (np.cumsum(first) - 1).astype(np.int32),
        "context_fids": fids[range_indices(starts[chosen], context_counts[chosen])],
        "context_lengths": contexts[chosen].reshape(-1) if spec.context_ragged else None,
        "item_fids": fids[range_indices(starts + context_counts, item_counts)],
        "item_lengths": np.ascontiguousarray(items).reshape(-1) if spec.item_ragged else None,
    }


def cut_requests(
    context_fids: Int64s, context_lengths: UInt16s | None, requests: int, request: Int32s
) -> tuple[slice, Int64s, UInt16s | None]:
    """The stretch of R requests that rows need, and its contexts as views.

    :param request: int32[n], number of each row's request.
    """
    first, last = (int(request.min()), int(request.max()) + 1) if len(request) else (0, 0)
    if context_lengths is None:
        width = len(context_fids) // max(requests, 1)
        return slice(first, last), context_fids[first * width : last * width], None
    slots = len(context_lengths) // max(requests, 1)
    lengths = context_lengths[first * slots : last * slots]
    start = int(context_lengths[: first * slots].sum(dtype=np.int64))
    return slice(first, last), context_fids[start : start + int(lengths.sum(dtype=np.int64))], lengths


def _lengths(columns: Sequence[UInt16s | None], sizes: Int64s) -> UInt16s | None:
    """The lengths of several blocks, one value each where a block has none; None where no block has any."""
    if all(column is None for column in columns):
        return None
    parts = [
        np.ones(size, np.uint16) if column is None else column for column, size in zip(columns, sizes, strict=True)
    ]
    return np.concatenate(parts)


def _first_of_runs(request: AnyArray, contexts: UInt16s, fids: Int64s, starts: Int64s, counts: Int64s) -> Bools:
    """Whether each row is of another request than the row before it, or has another context: bool[n]."""
    first = np.ones(len(request), np.bool_)
    first[1:] = (request[1:] != request[:-1]) | (contexts[1:] != contexts[:-1]).any(axis=1)
    alike = np.flatnonzero(~first)
    differs = fids[range_indices(starts[alike], counts[alike])] != fids[range_indices(starts[alike - 1], counts[alike])]
    first[np.repeat(alike, counts[alike])[differs]] = True
    return first

"""Kernels of the crosses: how many pairs each row has, and rows of fids with those of their pairs after them.

The rows come in groups that share their first ``shared_slots`` slots, which are stored once per group: a request's
context, and the candidates below it. Empty lengths mean one value per slot, as everywhere in this room.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64, uint64

from rillet.embeddings.compiled import IN_INT64S, IN_UINT16S, INT64, INT64S, UINT16S, helper, kernel
from rillet.embeddings.map_kernels import mix


@helper
def _locate(lengths: Any, group: Any, slots: Any, at: Any, first: Any, begin: Any, count: Any) -> Any:
    """Writes where the values of a row's slots begin and how many they are; returns where its last ends.

    :param at: where its first value is; first: place of its first slot in ``begin`` and ``count``.
    """
    for slot in range(slots):
        here = np.int64(lengths[group * slots + slot]) if len(lengths) else np.int64(1)
        begin[first + slot] = at
        count[first + slot] = here
        at += here
    return at


@kernel(INT64, IN_UINT16S, INT64, IN_UINT16S, INT64, IN_INT64S, IN_INT64S, IN_INT64S, IN_INT64S, UINT16S)
def lengths_with_pairs(
    shared_lengths: Any,
    shared_slots: Any,
    lengths: Any,
    slots: Any,
    group_rows: Any,
    left: Any,
    right: Any,
    limits: Any,
    out: Any,
) -> Any:
    """Writes each row's lengths with those of its crosses after them; returns their sum."""
    begin, count = np.empty(shared_slots + slots, np.int64), np.empty(shared_slots + slots, np.int64)
    row, total, to = int64(0), int64(0), int64(0)
    for group in range(len(group_rows)):
        _locate(shared_lengths, group, shared_slots, int64(0), int64(0), begin, count)
        for _ in range(group_rows[group]):
            total += _locate(lengths, row, slots, int64(0), shared_slots, begin, count)
            for slot in range(slots):
                out[to] = count[shared_slots + slot]
                to += 1
            for cross in range(len(left)):
                pairs = min(count[left[cross]] * count[right[cross]], limits[cross])
                out[to] = pairs
                to += 1
                total += pairs
            row += 1
    return total


@kernel(
    INT64,
    *(IN_INT64S, IN_UINT16S, INT64),
    *(IN_INT64S, IN_UINT16S, INT64),
    *(IN_INT64S, IN_INT64S, IN_INT64S, IN_INT64S, IN_INT64S),
    INT64S,
)
def fids_with_pairs(
    shared_fids: Any,
    shared_lengths: Any,
    shared_slots: Any,
    fids: Any,
    lengths: Any,
    slots: Any,
    group_rows: Any,
    left: Any,
    right: Any,
    limits: Any,
    tags: Any,
    out: Any,
) -> Any:
    """Writes each row's fids with those of its pairs after them; returns how many.

    :param left: place of a cross's first slot among shared and own slots; right: of its second.
    :param tags: slot numbers of the crosses, in the place that they have in a fid.
    """
    begin, count = np.empty(shared_slots + slots, np.int64), np.empty(shared_slots + slots, np.int64)
    row, at, shared_at, to = int64(0), int64(0), int64(0), int64(0)
    for group in range(len(group_rows)):
        shared_at = _locate(shared_lengths, group, shared_slots, shared_at, int64(0), begin, count)
        for _ in range(group_rows[group]):
            end = _locate(lengths, row, slots, at, shared_slots, begin, count)
            for i in range(at, end):
                out[to] = fids[i]
                to += 1
            at = end
            for cross in range(len(left)):
                a, b = left[cross], right[cross]
                # A value is chosen each time, and not an array once: that would count references, per cross and row.
                a_shared, b_shared = a < shared_slots, b < shared_slots
                rest = limits[cross]
                for i in range(begin[a], begin[a] + count[a]):
                    hashed = mix(shared_fids[i] if a_shared else fids[i])
                    for j in range(begin[b], begin[b] + min(count[b], rest)):
                        pair = mix(hashed + uint64(shared_fids[j] if b_shared else fids[j]))
                        out[to] = tags[cross] | int64(pair >> uint64(16))
                        to += 1
                    rest -= min(count[b], rest)
                    if rest == 0:
                        break
            row += 1
    return to

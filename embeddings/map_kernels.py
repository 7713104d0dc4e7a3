"""Kernels of the id map: find, assign, remove, seen, list. See ``id_map`` for the layout they work on.

Linear probing inside a segment; a removal shifts later keys back (Knuth, TAOCP 6.4, algorithm R), so there
are no tombstones to collect and no probe ever stops at a hole before its key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint64

from rillet.embeddings.compiled import IN_INT64S, INT64, INT64S, UINT64S, helper, int64s_at, kernel, prefetch

#: slots of a segment, a power of two; an entry is two int64: the fid (0 = empty) and row | seen << 32
SEGMENT_SLOTS = 4096
#: a segment with this many keys splits before it takes another
SEGMENT_KEYS = 3072
#: int64s before the entries: COUNT, DEPTH, and padding to a cache line
SEGMENT_HEADER = 8
SEGMENT_WORDS = SEGMENT_HEADER + 2 * SEGMENT_SLOTS
COUNT, DEPTH = 0, 1

#: fields of the map's control array
KEYS, NEXT_ROW, FREE_ROWS, DIRECTORY_DEPTH, SPARE_ADDRESS, SPARE_SEGMENTS, FRESH, REACHED = range(8)
CONTROL_FIELDS = 8

#: what assign answers
DONE, NEEDS_DEPTH, NEEDS_SEGMENT = 0, 1, 2

#: how many fids ahead of the current one are prefetched
AHEAD = 12

_SLOT_MASK = SEGMENT_SLOTS - 1
_ROW_MASK = (1 << 32) - 1


@helper
def mix(value: Any) -> Any:
    """splitmix64's finalizer: a bijection, so distinct fids keep distinct hashes."""
    x = uint64(value) + uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@helper
def _seen(entry: Any) -> Any:
    """The second of an entry's upper half, which is unsigned."""
    return (entry >> 32) & _ROW_MASK


@helper
def _segment(directory: Any, hashed: Any, depth: Any) -> Any:
    """The segment that owns a hash: the directory is indexed by its upper ``depth`` bits."""
    return int64s_at(directory[np.int64(hashed >> uint64(64 - depth))], SEGMENT_WORDS)


@helper
def _prefetch_entry(fid: Any, directory: Any, depth: Any) -> None:
    """Prefetches the cache line where the probe for a fid will begin."""
    hashed = mix(fid)
    word = SEGMENT_HEADER + 2 * np.int64(hashed & uint64(_SLOT_MASK))
    prefetch(directory[np.int64(hashed >> uint64(64 - depth))] + 8 * word)


@helper
def _probe(segment: Any, fid: Any, hashed: Any) -> Any:
    """Index of the word that holds the fid, or of the empty one where it would go."""
    slot = np.int64(hashed & uint64(_SLOT_MASK))
    while True:
        word = SEGMENT_HEADER + 2 * slot
        key = segment[word]
        if key in (fid, 0):
            return word
        slot = (slot + 1) & _SLOT_MASK


@kernel(INT64, IN_INT64S, IN_INT64S, INT64, INT64S)
def find(fids: Any, directory: Any, depth: Any, rows: Any) -> Any:
    """Writes each fid's row, -1 for the padding fid and unknown ones; returns how many were unknown."""
    unknown = 0
    for i in range(len(fids)):
        if i + AHEAD < len(fids):
            _prefetch_entry(fids[i + AHEAD], directory, depth)
        fid = fids[i]
        row = np.int64(-1)
        if fid != 0:
            hashed = mix(fid)
            segment = _segment(directory, hashed, depth)
            word = _probe(segment, fid, hashed)
            if segment[word] == 0:
                unknown += 1
            else:
                row = segment[word + 1] & _ROW_MASK
        rows[i] = row
    return unknown


@helper
def _split(segment: Any, hashed: Any, directory: Any, control: Any, scratch: Any) -> None:
    """Moves the keys whose next hash bit is 1 to a spare segment and points the directory's half at it."""
    depth = control[DIRECTORY_DEPTH]
    address = control[SPARE_ADDRESS]
    control[SPARE_ADDRESS] += SEGMENT_WORDS * 8
    control[SPARE_SEGMENTS] -= 1
    upper = int64s_at(address, SEGMENT_WORDS)
    bit = uint64(63 - segment[DEPTH])
    span = np.int64(1) << (depth - segment[DEPTH])
    first = np.int64(hashed >> uint64(64 - depth)) & ~(span - 1)
    for entry in range(first + span // 2, first + span):
        directory[entry] = address
    new_depth = segment[DEPTH] + 1
    for word in range(SEGMENT_WORDS):
        scratch[word] = segment[word]
        segment[word] = 0
    segment[DEPTH] = new_depth
    upper[DEPTH] = new_depth
    for slot in range(SEGMENT_SLOTS):
        key = scratch[SEGMENT_HEADER + 2 * slot]
        if key != 0:
            key_hash = mix(key)
            if (key_hash >> bit) & uint64(1):
                word = _probe(upper, key, key_hash)
                upper[word] = key
                upper[word + 1] = scratch[SEGMENT_HEADER + 2 * slot + 1]
                upper[COUNT] += 1
            else:
                word = _probe(segment, key, key_hash)
                segment[word] = key
                segment[word + 1] = scratch[SEGMENT_HEADER + 2 * slot + 1]
                segment[COUNT] += 1


@kernel(INT64, IN_INT64S, INT64, INT64S, INT64S, INT64S, INT64S, INT64S, INT64S)
def assign(
    fids: Any, seen: Any, directory: Any, control: Any, free_rows: Any, scratch: Any, rows: Any, fresh: Any
) -> Any:
    """Finds or inserts from ``control[REACHED]`` on; sets last-seen to ``seen`` (seconds) where that is later.

    ``fresh`` gets the indices of the fids that got a new row. Stops with NEEDS_DEPTH or NEEDS_SEGMENT when a
    segment is full and there is no room to split it; the caller provides that and calls again.
    """
    depth = control[DIRECTORY_DEPTH]
    for i in range(control[REACHED], len(fids)):
        fid = fids[i]
        if i + AHEAD < len(fids):
            _prefetch_entry(fids[i + AHEAD], directory, depth)
        if fid == 0:
            rows[i] = -1
            continue
        hashed = mix(fid)
        while True:
            segment = _segment(directory, hashed, depth)
            word = _probe(segment, fid, hashed)
            if segment[word] != 0:
                entry = segment[word + 1]
                rows[i] = entry & _ROW_MASK
                if _seen(entry) < seen:
                    segment[word + 1] = (entry & _ROW_MASK) | (seen << 32)
                break
            if segment[COUNT] < SEGMENT_KEYS:
                if control[FREE_ROWS] > 0:
                    control[FREE_ROWS] -= 1
                    row = free_rows[control[FREE_ROWS]]
                else:
                    row = control[NEXT_ROW]
                    control[NEXT_ROW] += 1
                segment[word] = fid
                segment[word + 1] = row | (seen << 32)
                segment[COUNT] += 1
                control[KEYS] += 1
                rows[i] = row
                fresh[control[FRESH]] = i
                control[FRESH] += 1
                break
            if segment[DEPTH] == depth or control[SPARE_SEGMENTS] == 0:
                control[REACHED] = i
                return NEEDS_DEPTH if segment[DEPTH] == depth else NEEDS_SEGMENT
            _split(segment, hashed, directory, control, scratch)
    control[REACHED] = len(fids)
    return DONE


@kernel(INT64, IN_INT64S, IN_INT64S, INT64S, INT64S, INT64S)
def remove(fids: Any, directory: Any, control: Any, free_rows: Any, rows: Any) -> Any:
    """Removes fids and frees their rows; ``rows`` gets the former row of each, -1 where there was none."""
    removed = 0
    for i in range(len(fids)):
        fid = fids[i]
        rows[i] = -1
        if fid == 0:
            continue
        hashed = mix(fid)
        segment = _segment(directory, hashed, control[DIRECTORY_DEPTH])
        hole = _probe(segment, fid, hashed)
        if segment[hole] == 0:
            continue
        rows[i] = segment[hole + 1] & _ROW_MASK
        free_rows[control[FREE_ROWS]] = rows[i]
        control[FREE_ROWS] += 1
        control[KEYS] -= 1
        segment[COUNT] -= 1
        removed += 1
        hole_slot = (hole - SEGMENT_HEADER) // 2
        slot = hole_slot
        while True:
            slot = (slot + 1) & _SLOT_MASK
            word = SEGMENT_HEADER + 2 * slot
            key = segment[word]
            if key == 0:
                break
            home = np.int64(mix(key) & uint64(_SLOT_MASK))
            # The key may move back unless its home lies after the hole, where a probe would not pass the hole.
            if ((slot - home) & _SLOT_MASK) >= ((slot - hole_slot) & _SLOT_MASK):
                to = SEGMENT_HEADER + 2 * hole_slot
                segment[to] = key
                segment[to + 1] = segment[word + 1]
                hole_slot = slot
        segment[SEGMENT_HEADER + 2 * hole_slot] = 0
    return removed


@kernel(INT64, IN_INT64S, IN_INT64S, INT64, INT64S)
def last_seen(fids: Any, directory: Any, depth: Any, seconds: Any) -> Any:
    """Writes each fid's last-seen second, -1 where it is unknown; returns how many were known."""
    known = 0
    for i in range(len(fids)):
        fid = fids[i]
        seconds[i] = -1
        if fid != 0:
            hashed = mix(fid)
            segment = _segment(directory, hashed, depth)
            word = _probe(segment, fid, hashed)
            if segment[word] != 0:
                seconds[i] = _seen(segment[word + 1])
                known += 1
    return known


@kernel(INT64, IN_INT64S, IN_INT64S, IN_INT64S, INT64)
def stamp(fids: Any, seconds: Any, directory: Any, depth: Any) -> Any:
    """Sets the last-seen second of fids that are in the map; returns how many were."""
    known = 0
    for i in range(len(fids)):
        fid = fids[i]
        if fid != 0:
            hashed = mix(fid)
            segment = _segment(directory, hashed, depth)
            word = _probe(segment, fid, hashed)
            if segment[word] != 0:
                segment[word + 1] = (segment[word + 1] & _ROW_MASK) | (seconds[i] << 32)
                known += 1
    return known


@kernel(INT64, IN_INT64S, UINT64S)
def hashes(fids: Any, out: Any) -> Any:
    """Writes the hash of each fid; distinct ones have distinct hashes."""
    for i in range(len(fids)):
        out[i] = mix(fids[i])
    return len(fids)


@helper
def _directory_range(part: Any, bits: Any, depth: Any) -> Any:
    """First entry of the directory for hashes that begin with ``part``, of so many bits, and one above the last."""
    if bits > depth:
        first = part >> (bits - depth)
        return first, first + 1
    return part << (depth - bits), (part + 1) << (depth - bits)


@kernel(INT64, INT64, INT64, IN_INT64S, INT64)
def part_capacity(part: Any, bits: Any, directory: Any, depth: Any) -> Any:
    """Keys of all segments that have hashes beginning with ``part``: at most so many does :func:`list_part` give."""
    first, end = _directory_range(part, bits, depth)
    count = 0
    last = np.int64(0)
    for entry in range(first, end):
        if directory[entry] != last:
            last = directory[entry]
            count += int64s_at(last, SEGMENT_WORDS)[COUNT]
    return count


@kernel(INT64, INT64, INT64, IN_INT64S, INT64, INT64S, INT64S, INT64S)
def list_part(part: Any, bits: Any, directory: Any, depth: Any, fids: Any, rows: Any, seconds: Any) -> Any:
    """Writes fid, row and last-seen second of all keys whose hash begins with ``part``, of ``bits`` bits, 1 or more.

    Returns how many there are. Segments may split between two parts: a part is of the hash, not of segments.
    """
    first, end = _directory_range(part, bits, depth)
    count = 0
    last = np.int64(0)
    for entry in range(first, end):
        if directory[entry] == last:
            continue
        last = directory[entry]
        segment = int64s_at(last, SEGMENT_WORDS)
        for slot in range(SEGMENT_SLOTS):
            key = segment[SEGMENT_HEADER + 2 * slot]
            if key != 0 and np.int64(mix(key) >> uint64(64 - bits)) == part:
                value = segment[SEGMENT_HEADER + 2 * slot + 1]
                fids[count] = key
                rows[count] = value & _ROW_MASK
                seconds[count] = _seen(value)
                count += 1
    return count

"""Deterministic negative sampling: whether a negative is kept depends on its identity and the seed alone.

A replay therefore keeps the same sample, and two joiners agree without talking. Text is hashed once per
request (BLAKE2b), impressions are mixed in with the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil

import numpy as np

from rillet.schemas.arrays import Bools, Int64s, UInt64s

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


def request_hash(seed: int, task: str, request_id: str) -> int:
    """64-bit hash of a request for one task's sample."""
    return int.from_bytes(blake2b(f"{seed}|{task}|{request_id}".encode(), digest_size=8).digest(), "little")


def highest_kept(rate: float) -> np.uint64:
    """The largest mixed hash of an impression that a sample of this rate, in (0, 1], keeps; see :func:`keeps`."""
    # (x >> 11) * 2^-53 < rate, in integers: both scalings are exact.
    return np.uint64((ceil(rate * 2.0**53) << 11) - 1)


def keeps(request_hashes: UInt64s, impression_ids: Int64s, highest: UInt64s | np.uint64) -> Bools:
    """Whether the sample keeps each impression, bool of the shape that the three have together.

    :param request_hashes: of :func:`request_hash`, by impression, or a column with one per task.
    :param impression_ids: int64[n].
    :param highest: of :func:`highest_kept`, one or a column with one per task.
    """
    x = request_hashes ^ impression_ids.view(np.uint64)
    x += _GAMMA
    x ^= x >> _30
    x *= _MIX1
    x ^= x >> _27
    x *= _MIX2
    x ^= x >> _31
    kept: Bools = x <= highest
    return kept

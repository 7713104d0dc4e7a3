"""Deterministic negative sampling: whether a negative is kept depends on its identity and the seed alone.

A replay therefore keeps the same sample, and two joiners agree without talking. Text is hashed once per
request (BLAKE2b), impressions are mixed in with the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from rillet.schemas.arrays import Float64s, Int64s, UInt64s

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def request_hash(seed: int, task: str, request_id: str) -> int:
    """64-bit hash of a request for one task's sample."""
    return int.from_bytes(blake2b(f"{seed}|{task}|{request_id}".encode(), digest_size=8).digest(), "little")


def uniforms(request_hashes: UInt64s | np.uint64, impression_ids: Int64s) -> Float64s:
    """One number in [0, 1) per impression, float64[n], from n request hashes, or one, and n impression ids."""
    x = (request_hashes ^ impression_ids.view(np.uint64)) + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53

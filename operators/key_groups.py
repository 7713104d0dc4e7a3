"""Keys that spread the joiner's buckets evenly: Flink hashes keys into key groups, and gives each subtask a range of these.

A hash of few keys is uneven: of sixteen buckets two of eight subtasks would get none. So each bucket's key is chosen by its
hash, a group for each bucket. Source: ``KeyGroupRangeAssignment`` and ``MathUtils.murmurHash`` of Flink (MurmurHash3, Appleby).
"""

from __future__ import annotations

from functools import cache

from rillet.joiner import MAX_BUCKETS

#: of the whole job, whatever the number of buckets: Flink takes no state of another number
KEY_GROUPS = MAX_BUCKETS
#: hash code of Java's ``Row.of(0)``, which PyFlink wraps a key in
_ROW_HASH = 62
_INT = 0xFFFFFFFF


def key_group(key: int) -> int:
    """The key group that Flink puts the row of a small integer key into."""
    return _murmur_hash(key + _ROW_HASH) % KEY_GROUPS


@cache
def bucket_keys(buckets: int) -> tuple[int, ...]:
    """The key of each bucket: the smallest integers whose groups are as far apart as the buckets.

    >>> [key_group(key) for key in bucket_keys(4)]
    [0, 256, 512, 768]
    """
    found: dict[int, int] = {}
    wanted = {bucket * KEY_GROUPS // buckets for bucket in range(buckets)}
    key = 0
    while len(found) < buckets:
        group = key_group(key)
        if group in wanted and group not in found:
            found[group] = key
        key += 1
    return tuple(found[group] for group in sorted(found))


def subtask_of(group: int, parallelism: int) -> int:
    """The subtask that has a key group."""
    return group * parallelism // KEY_GROUPS


def _murmur_hash(code: int) -> int:
    code = code * 0xCC9E2D51 & _INT
    code = _rotated(code, 15) * 0x1B873593 & _INT
    code = (_rotated(code, 13) * 5 + 0xE6546B64) & _INT
    code ^= 4
    code = (code ^ code >> 16) * 0x85EBCA6B & _INT
    code = (code ^ code >> 13) * 0xC2B2AE35 & _INT
    code ^= code >> 16
    if code < 1 << 31:
        return code
    return 0 if code == 1 << 31 else (1 << 32) - code


def _rotated(code: int, by: int) -> int:
    return (code << by | code >> (32 - by)) & _INT

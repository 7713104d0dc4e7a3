"""Feature ids: 1 reserved bit, 15 bits of slot, 48 bits of value, in one non-negative int64.

The layout is Monolith's FID v2. The value is the raw id where it fits in 48 bits, so that ids never
collide, and the beginning of a SHA-256 digest for text: a hash that every language's library has.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from rillet.schemas.arrays import Int64s

VALUE_BITS = 48
MAX_SLOT = (1 << 15) - 1
MAX_VALUE = (1 << VALUE_BITS) - 1
#: Of a slot with exactly one value, in a record of a feature spec that does not have the slot: see conversion.py.
MISSING_VALUE = MAX_VALUE
#: Never a real fid: slot 0 is reserved, so 0 pads fixed-width tensors.
PADDING_FID = 0


def make_fids(slot: int, values: npt.ArrayLike) -> Int64s:
    """Fids of integer ids in one slot.

    :param slot: 1 to 32767.
    :param values: integers of any shape, each in [0, 2**48).
    :raises ValueError: slot or a value out of range.
    """
    if not 1 <= slot <= MAX_SLOT:
        raise ValueError(f"slot {slot} is not in 1..{MAX_SLOT}")
    array = np.asarray(values, dtype=np.int64)
    if array.size and (array.min() < 0 or array.max() > MAX_VALUE):
        raise ValueError(f"an id of slot {slot} is not in 0..2**{VALUE_BITS}-1; declare the slot as token to hash it")
    return array | np.int64(slot << VALUE_BITS)


def token_values(tokens: Iterable[str]) -> Int64s:
    """48-bit hashes of text, int64[n]: the first twelve hexadecimal digits of the SHA-256 of its UTF-8 bytes.

    >>> hex(token_values(["comedy"])[0]), sha256(b"comedy").hexdigest()[:12]
    ('0x3fefb8d091a', '03fefb8d091a')
    """
    return np.frombuffer(b"".join(map(_digest, tokens)), dtype=">i8").astype(np.int64)


@lru_cache(maxsize=1 << 16)  # names of categories, items and users come again and again
def _digest(token: str) -> bytes:
    return b"\0\0" + sha256(token.encode()).digest()[:6]


def slot_of(fids: npt.ArrayLike) -> Int64s:
    """The slot number of each fid, same shape."""
    return np.asarray(fids, dtype=np.int64) >> VALUE_BITS


def value_of(fids: npt.ArrayLike) -> Int64s:
    """The 48-bit value of each fid, same shape."""
    return np.asarray(fids, dtype=np.int64) & MAX_VALUE

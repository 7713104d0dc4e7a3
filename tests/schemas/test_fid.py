"""Fids: one reserved bit, fifteen of slot, forty-eight of value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import PADDING_FID, make_fids, slot_of, token_values, value_of


@given(st.integers(1, 2**15 - 1), st.lists(st.integers(0, 2**48 - 1)))
def test_slot_and_value_come_back_and_the_reserved_bit_stays_zero(slot: int, values: list[int]) -> None:
    fids = make_fids(slot, values)
    assert slot_of(fids).tolist() == [slot] * len(values)
    assert value_of(fids).tolist() == values
    assert (fids > PADDING_FID).all()


@pytest.mark.parametrize(("slot", "value"), [(0, 1), (2**15, 1), (1, -1), (1, 2**48)])
def test_what_does_not_fit_is_refused(slot: int, value: int) -> None:
    with pytest.raises(ValueError, match=r"is not in"):
        make_fids(slot, [value])


def test_token_hashes_are_fixed_for_ever() -> None:
    # BLAKE2b, six bytes, little-endian: computed with b2sum -l 48.
    assert token_values(["", "comedy"]).tolist() == [EMPTY, COMEDY]
    assert token_values(["é"]).dtype == np.int64


EMPTY = int.from_bytes(bytes.fromhex("ddd9c40767f9"), "little")
COMEDY = int.from_bytes(bytes.fromhex("72d0ac430753"), "little")

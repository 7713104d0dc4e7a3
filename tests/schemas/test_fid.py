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
    # SHA-256, its first twelve digits: computed with sha256sum.
    assert token_values(["", "comedy"]).tolist() == [EMPTY, COMEDY]
    assert token_values(["é"]).dtype == np.int64


EMPTY = 0xE3B0C44298FC
COMEDY = 0x03FEFB8D091A

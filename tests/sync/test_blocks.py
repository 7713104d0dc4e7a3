"""Blocks are what was built, or refused."""

from __future__ import annotations

from dataclasses import replace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rillet.schemas import DeltaBlock, decode_as, encode
from rillet.sync import BlockError, TableShard
from rillet.sync.blocks import block_rows, build_block, checksum, rows_of, verify_block

FIDS = hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(1, 2**62))
OURS = TableShard("m", -3, "t")
FLOATS = st.floats(-1e6, 1e6, width=32)


def block(fids: np.ndarray, dim: int, tombstones: np.ndarray) -> DeltaBlock:  # type: ignore[type-arg]
    rows = np.arange(len(fids) * dim, dtype=np.float32).reshape(len(fids), dim)
    return build_block(OURS, epoch=1, sequence=2, dim=dim, fids=fids, rows=rows, tombstones=tombstones)


@given(FIDS, st.integers(1, 20), FIDS)
def test_a_block_survives_the_wire(fids: np.ndarray, dim: int, tombstones: np.ndarray) -> None:  # type: ignore[type-arg]
    built = block(fids, dim, tombstones)
    received = decode_as(DeltaBlock, encode(built))
    verify_block(received)
    assert np.array_equal(received.fids, fids)
    assert np.array_equal(received.tombstones, tombstones)
    assert np.array_equal(rows_of(received), built.rows.reshape(-1, dim))


@given(st.data())
def test_any_flipped_bit_of_the_columns_is_noticed(data: st.DataObject) -> None:
    built = block(np.array([5, 6, 7], np.int64), 4, np.array([8, 9], np.int64))
    column = data.draw(st.sampled_from(["fids", "rows", "tombstones"]))
    packed = bytearray(getattr(built, column).tobytes())
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BlockError, match="crc32c"):
        verify_block(replace(built, **{column: np.frombuffer(bytes(packed), getattr(built, column).dtype)}))


def test_the_checksum_is_crc32c_over_the_little_endian_columns() -> None:
    fids, rows, tombstones = np.array([1, 2]), np.array([[0.5], [1.5]], np.float32), np.array([3])
    packed = fids.astype("<i8").tobytes() + rows.astype("<f4").tobytes() + tombstones.astype("<i8").tobytes()
    assert checksum(fids, rows, tombstones) == google_crc32c.value(packed)
    # Check value of CRC-32C, RFC 3720 appendix B.4: 32 bytes of zeros.
    assert checksum(np.zeros(4, np.int64), rows[:0], tombstones[:0]) == 0x8A9136AA


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    rows = np.zeros((2, 3), np.float32)
    rows[1, 2] = value
    built = build_block(OURS, epoch=1, sequence=0, dim=3, fids=np.array([1, 2]), rows=rows)
    with pytest.raises(BlockError, match="not finite"):
        verify_block(built)


@pytest.mark.parametrize("fid", [0, -1])
def test_fids_that_no_table_takes_are_refused(fid: int) -> None:
    with pytest.raises(BlockError, match=f"fid {fid}"):
        verify_block(block(np.array([4, fid], np.int64), 2, np.empty(0, np.int64)))
    with pytest.raises(BlockError, match=f"fid {fid}"):
        verify_block(block(np.empty(0, np.int64), 2, np.array([fid], np.int64)))


def test_widths_that_do_not_fit_are_refused_on_both_sides() -> None:
    with pytest.raises(BlockError, match="8 numbers for 2 fids of dim 3"):
        verify_block(replace(block(np.array([4, 5], np.int64), 4, np.empty(0, np.int64)), dim=3))
    with pytest.raises(ValueError, match="shape"):
        build_block(OURS, epoch=1, sequence=0, dim=3, fids=np.array([1]), rows=np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(("dim", "rows", "expected"), [(17, 8192, 8192), (256, 8192, 872), (10**6, 8192, 1)])
def test_blocks_are_bounded_in_rows_and_bytes(dim: int, rows: int, expected: int) -> None:
    assert block_rows(dim, rows, 900_000) == expected

"""Rows to Parquet and back: nothing changes, and what does not fit is refused with what is wrong."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.parquet import decode_table, encode_table, in_order, row_schema, to_block, to_table
from rillet.schemas import ExampleBlock, FeatureSpec, encode, parse_spec
from rillet.trainer import ReadBlock
from rillet.trainer.batch import cut_rows
from tests.trainer.blocks import RAGGED, make_block

PLAIN = parse_spec(
    '[spec]\nname = "plain"\n[[item]]\nname = "film"\nslot = 16\nkind = "id"\n[[item]]\nname = "shelf"\nslot = 17\n'
    'kind = "token"\n[[tasks]]\nname = "watch"\naction = "watch"\nwindow_ms = 1000\n'
)


def _there_and_back(block: ExampleBlock, spec: FeatureSpec) -> ExampleBlock:
    table = to_table([ReadBlock(0, 0, block)], spec)
    return to_block(decode_table(encode_table(table).to_pybytes(), spec), spec)


def _assert_equal(found: ExampleBlock, expected: ExampleBlock) -> None:
    for field in fields(ExampleBlock):
        if not field.name.startswith(("request_", "context_")):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), field.name)
    for one, other in zip(found.row_fids(), expected.row_fids(), strict=True):
        assert (one is None) == (other is None)
        np.testing.assert_array_equal(one, other)  # type: ignore[arg-type]
    assert [found.request_ids[at] for at in found.request_index] == [
        expected.request_ids[at] for at in expected.request_index
    ]


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 60), seed=st.integers(0, 1000), ragged=st.booleans())
def test_rows_come_back_as_they_were(rows: int, seed: int, ragged: bool) -> None:
    spec = RAGGED if ragged else PLAIN
    rng = np.random.default_rng(seed)
    block = make_block(rng, rows, spec)
    # Rows of one request lie apart, and an id may stand for several requests with contexts of their own.
    block = replace(block, request_ids=[["a", "b", "ü"][at % 3] for at in range(len(block.request_ids))])
    block = cut_rows(block, 0, int(rng.integers(1, rows + 1)))
    _assert_equal(_there_and_back(block, spec), block)


def test_blocks_without_logits_or_lengths_have_them_filled_in() -> None:
    rng = np.random.default_rng(0)
    block = make_block(rng, 5, PLAIN, served=False)
    assert np.isnan(_there_and_back(block, PLAIN).served_logits).all()  # type: ignore[arg-type]
    one_each = make_block(rng, 4)
    items = np.tile(np.array([slot.slot for slot in RAGGED.item]) << 48, 4) + 1
    one_each = replace(one_each, item_lengths=None, item_fids=items)
    found = _there_and_back(one_each, RAGGED)
    assert found.item_lengths is not None
    assert found.item_lengths.tolist() == [1] * 8
    np.testing.assert_array_equal(found.item_fids, items)


def test_a_file_tells_spec_and_format_to_whoever_opens_it() -> None:
    metadata = row_schema(RAGGED).metadata
    assert metadata[b"rillet.spec_hash"] == f"{RAGGED.hash:#x}".encode()
    assert parse_spec(metadata[b"rillet.spec"].decode()).hash == RAGGED.hash
    assert metadata[b"rillet.format"] == b"1"


def test_numbers_are_views_of_the_tables_memory() -> None:
    block = make_block(np.random.default_rng(0), 50)
    table = to_table([ReadBlock(0, 0, block)], RAGGED)
    found = to_block(table.slice(10, 20), RAGGED)
    for name in ("labels", "sampling_rate", "feature_time_ms", "served_logits"):
        assert getattr(found, name).base is not None
        assert not getattr(found, name).flags.writeable
    np.testing.assert_array_equal(found.feature_time_ms, block.feature_time_ms[10:30])


def test_rows_of_several_tables_are_put_back_into_their_order() -> None:
    block = make_block(np.random.default_rng(0), 40)
    table = to_table([ReadBlock(0, 0, block)], RAGGED, first_number=100)
    odd, even = (table.filter(pa.array(np.arange(40) % 2 == rest)) for rest in (1, 0))
    _assert_equal(to_block(in_order([odd, even]), RAGGED), block)


def test_records_without_rows_make_an_empty_table() -> None:
    assert to_table([ReadBlock(0, 0, None)], RAGGED).num_rows == 0


@pytest.mark.parametrize("at", [0.02, 0.3, 0.6, 0.999])
def test_a_damaged_file_is_refused(at: float) -> None:
    data = bytearray(encode_table(to_table([ReadBlock(0, 0, make_block(np.random.default_rng(0), 500))], RAGGED)))
    data[int(at * len(data))] ^= 0xFF
    with pytest.raises(ExampleFilesError, match="damaged"):
        to_block(decode_table(bytes(data), RAGGED), RAGGED)


def test_a_file_of_other_columns_is_refused_with_their_names() -> None:
    data = encode_table(pa.table({"a": [1]})).to_pybytes()
    with pytest.raises(ExampleFilesError, match=r"not those of feature spec films .*: a"):
        decode_table(data, RAGGED)


def test_rows_that_do_not_fit_the_spec_are_refused_with_what_is_wrong() -> None:
    block = make_block(np.random.default_rng(0), 5)
    table = to_table([ReadBlock(0, 0, replace(block, sampling_rate=np.zeros(5, np.float32)))], RAGGED)
    with pytest.raises(ExampleFilesError, match="sampling_rate: a rate is not in"):
        to_block(table, RAGGED)


def test_what_is_decoded_is_what_was_encoded_in_avro() -> None:
    """The same rows by both ways: one record of the topic, one file."""
    block = make_block(np.random.default_rng(0), 30)
    assert encode(_there_and_back(block, RAGGED)) == encode(block)

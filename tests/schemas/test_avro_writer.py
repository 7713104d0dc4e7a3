"""Our writer of Avro gives, for every record, the bytes that fastavro gives."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rillet.schemas import CODECS, ActionEvent, FeatureEvent, Record, encode
from rillet.schemas.avro_writer import encode_long, record_writer
from tests.schemas.drawn_records import records


def by_fastavro(record: Record) -> bytes:
    codec = CODECS[type(record)]
    out = BytesIO()
    out.write(codec.header)
    fastavro.schemaless_writer(out, codec.schema, codec.to_avro(record))
    return out.getvalue()


@given(records())
def test_a_record_has_the_bytes_that_fastavro_writes(record: Record) -> None:
    assert encode(record) == by_fastavro(record)


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**63 - 1)
@example(-(2**63))
@example(4095)
@example(4096)
@example(-1)
def test_integers_have_the_bytes_that_fastavro_writes(value: int) -> None:
    action = ActionEvent("r", value, value, "watch")
    assert encode(action) == by_fastavro(action)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 4095, 4096, 70_000])
def test_lengths_of_text_and_columns_have_the_bytes_that_fastavro_writes(size: int) -> None:
    event = FeatureEvent("r" * size, 1, 2, np.arange(size), np.arange(2), np.arange(4))
    assert encode(event) == by_fastavro(event)


def test_columns_of_another_layout_are_written_by_value() -> None:
    plain = FeatureEvent("r", 1, 2, np.arange(4), np.arange(3), np.arange(6))
    other = FeatureEvent("r", 1, 2, np.arange(8)[::2] // 2, np.arange(3, dtype=np.int32), np.arange(6).astype(">i8"))
    assert encode(other) == encode(plain)


def test_numbers_of_numpy_are_integers_too() -> None:
    large = 1 << 62
    assert encode(ActionEvent("r", np.int64(large), np.int64(-large), "w")) == encode(  # type: ignore[arg-type]
        ActionEvent("r", large, -large, "w")
    )


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_an_integer_of_more_than_64_bits_is_refused(value: int) -> None:
    with pytest.raises(OverflowError, match="more than 64 bits"):
        encode_long(value)


@pytest.mark.parametrize("value", [1.5, "1", None])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(ActionEvent("r", value, 1, "watch"))


def test_a_record_of_one_field_is_written() -> None:
    schema = {"type": "record", "name": "one", "fields": [{"name": "size", "type": "long"}]}
    out: list[bytes] = []
    record_writer(schema, {"one": {}})(SimpleNamespace(size=5), out)
    assert out == [b"\x0a"]


@pytest.mark.parametrize("kind", ["boolean", ["string", "null"], {"type": "map", "values": "long"}, "bytes"])
def test_a_schema_with_something_else_is_refused_when_it_is_read(kind: Any) -> None:
    schema = {"type": "record", "name": "one", "fields": [{"name": "size", "type": kind}]}
    with pytest.raises(TypeError, match="not written here"):
        record_writer(schema, {"one": {}})

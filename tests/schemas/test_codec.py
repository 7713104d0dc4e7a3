"""Any record survives the wire; any bytes either decode or raise the one named error."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from io import BytesIO
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.schema import fingerprint
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import (
    CODECS,
    ActionEvent,
    DecodeError,
    DenseRef,
    FeatureEvent,
    Record,
    decode,
    decode_as,
    encode,
)
from tests.schemas.drawn_records import records


def same(left: Any, right: Any) -> bool:
    if is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left)
        )
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    return bool(left == right) or (left != left and right != right)


@given(records())
def test_a_record_decodes_to_itself(record: Record) -> None:
    read = decode(encode(record))
    assert same(record, read)


@given(records(), st.data())
def test_damaged_bytes_decode_or_raise_the_named_error(record: Record, data: st.DataObject) -> None:
    damaged = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        read = decode(cut)
    except DecodeError:
        return
    assert encode(read)


@given(st.sampled_from(list(CODECS)), st.binary(max_size=60))
def test_any_body_after_a_known_header_decodes_or_raises_the_named_error(record_type: type, body: bytes) -> None:
    try:
        read = decode(CODECS[record_type].header + body)
    except DecodeError:
        return
    assert type(read) is record_type


@given(st.binary(max_size=30))
def test_unknown_schemas_are_named_by_their_first_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError, match="unknown schema"):
        decode(data)


def test_bytes_after_the_record_are_refused() -> None:
    data = encode(ActionEvent("r1", 1, 2, "watch"))
    with pytest.raises(DecodeError, match="1 bytes after its end"):
        decode(data + b"\0")


def test_a_record_of_another_type_is_refused() -> None:
    with pytest.raises(DecodeError, match="not a FeatureEvent"):
        decode_as(FeatureEvent, encode(ActionEvent("r1", 1, 2, "watch")))


def test_packed_columns_are_views_of_the_body() -> None:
    event = FeatureEvent("r1", 1, 2, np.arange(3), np.arange(2), np.arange(4))
    read = decode_as(FeatureEvent, encode(event))
    assert not read.item_fids.flags.owndata
    assert not read.item_fids.flags.writeable


def test_the_header_is_the_single_object_encoding_of_the_avro_specification() -> None:
    # The fingerprint of "int" that Avro's own tests give, 0x7275d51a3f395c8f, little-endian as in the header.
    assert fingerprint('"int"', "CRC-64-AVRO") == "8f5c393f1ad57572"
    for codec in CODECS.values():
        assert codec.header[:2] == b"\xc3\x01"
        assert len(codec.header) == 10
    assert len({codec.header for codec in CODECS.values()}) == len(CODECS)


def test_any_avro_reader_reads_the_body() -> None:
    block = DenseRef("m", 0, 1, 2, 3, 4, "dense/4", "ab", 5)
    datum = fastavro.schemaless_reader(BytesIO(encode(block)[10:]), CODECS[DenseRef].schema, None)
    assert datum == {f.name: getattr(block, f.name) for f in fields(block)}


def test_every_field_of_a_schema_is_a_field_of_its_record() -> None:
    for record_type in CODECS:
        names = [f["name"] for f in CODECS[record_type].schema["fields"]]
        assert sorted(names) == sorted(CODECS[record_type].names)

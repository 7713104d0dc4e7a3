"""Avro single-object encoding of the records: ``C3 01``, the schema's CRC-64-AVRO fingerprint, the body.

Source: Apache Avro 1.12 specification, "Single-object encoding". Packed columns decode to views of the
body's bytes; no number is parsed one by one. Any input either decodes or raises :class:`DecodeError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import resources
from io import BytesIO
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import fastavro
import numpy as np
from fastavro.schema import fingerprint, to_parsing_canonical_form

from rillet.schemas.avro_writer import Write, record_writer
from rillet.schemas.errors import DecodeError
from rillet.schemas.records import (
    ActionEvent,
    DeltaBlock,
    DenseRef,
    EpochClaim,
    ExampleBlock,
    FeatureEvent,
    Freshness,
    Record,
)

MARKER = b"\xc3\x01"
HEADER_BYTES = 10

#: fields that are records themselves, by record type
_PARTS: dict[type, dict[str, type]] = {DeltaBlock: {"freshness": Freshness}}

_AVSC = {
    FeatureEvent: "feature_event",
    ActionEvent: "action_event",
    ExampleBlock: "example_block",
    DeltaBlock: "delta_block",
    DenseRef: "dense_ref",
    EpochClaim: "epoch_claim",
}


def _columns(record_type: type) -> dict[str, np.dtype[Any]]:
    """The packed columns and their dtypes, as the record declares them: ``Int64s``, ``UInt16s | None``."""
    declared = [(name, one) for name, hint in get_type_hints(record_type).items() for one in (hint, *get_args(hint))]
    return {
        name: np.dtype(get_args(get_args(one)[1])[0]).newbyteorder("<")
        for name, one in declared
        if get_origin(one) is np.ndarray
    }


_COLUMNS = {record_type: _columns(record_type) for record_type in (*_AVSC, Freshness)}

#: by the full names that the schemas have
_COLUMNS_BY_SCHEMA = {f"rillet.{record_type.__name__}": columns for record_type, columns in _COLUMNS.items()}

R = TypeVar("R", FeatureEvent, ActionEvent, ExampleBlock, DeltaBlock, DenseRef, EpochClaim)


@dataclass(frozen=True, slots=True)
class Codec:
    """Reads and writes one record type."""

    record_type: type
    #: the schema as parsed by fastavro, also what an Avro container file is written with
    schema: Any
    #: marker and fingerprint, the first ten bytes of every encoded record
    header: bytes
    names: tuple[str, ...]
    write: Write

    def to_avro(self, record: Record) -> dict[str, Any]:
        """The record as the plain dictionary that fastavro writes; columns packed."""
        return _pack(self.record_type, record, self.names)

    def from_avro(self, datum: dict[str, Any]) -> Any:
        """The record of a dictionary that fastavro read.

        :raises DecodeError: a packed column's length is no multiple of its item size.
        """
        return _unpack(self.record_type, datum)

    def encode(self, record: Record) -> bytes:
        """Header and body as one ``bytes``."""
        out = [self.header]
        self.write(record, out)
        return b"".join(out)

    def decode(self, data: bytes) -> Any:
        """The record in ``data``, all of it.

        :raises DecodeError: another schema, a malformed body or trailing bytes.
        """
        if data[:HEADER_BYTES] != self.header:
            raise DecodeError(f"not a {self.record_type.__name__}: the record begins with {data[:HEADER_BYTES].hex()}")
        source = BytesIO(data)
        source.seek(HEADER_BYTES)
        try:
            datum: Any = fastavro.schemaless_reader(source, self.schema, None)
        # A body of arbitrary bytes makes the reader fail in many ways (EOFError, IndexError,
        # UnicodeDecodeError, MemoryError for an absurd length ...): all mean the same to a caller.
        except Exception as error:
            raise DecodeError(
                f"{self.record_type.__name__}: malformed body ({type(error).__name__}: {error})"
            ) from error
        if source.tell() != len(data):
            raise DecodeError(f"{self.record_type.__name__}: {len(data) - source.tell()} bytes after its end")
        return self.from_avro(datum)


def _pack(record_type: type, record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    columns, parts = _COLUMNS[record_type], _PARTS.get(record_type, {})
    out: dict[str, Any] = {}
    for name in names:
        value = getattr(record, name)
        dtype = columns.get(name)
        if dtype is not None and value is not None:
            value = np.ascontiguousarray(value, dtype).tobytes()
        elif name in parts:
            value = _pack(parts[name], value, _names(parts[name]))
        out[name] = value
    return out


def _unpack(record_type: type, datum: dict[str, Any]) -> Any:
    for name, dtype in _COLUMNS[record_type].items():
        packed = datum[name]
        if packed is None:
            continue
        try:
            datum[name] = np.frombuffer(packed, dtype)
        except ValueError:
            raise DecodeError(
                f"{record_type.__name__}.{name}: {len(packed)} bytes are no whole number of {dtype}"
            ) from None
    if record_type in _PARTS:
        for name, part in _PARTS[record_type].items():
            datum[name] = _unpack(part, datum[name])
    return record_type(**datum)


def _names(record_type: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(record_type))


def _load(record_type: type) -> Codec:
    text = resources.files("rillet.schemas").joinpath("avsc", f"{_AVSC[record_type]}.avsc").read_text("utf-8")
    raw = json.loads(text)
    print_ = bytes.fromhex(fingerprint(to_parsing_canonical_form(raw), "CRC-64-AVRO"))
    schema: Any = fastavro.parse_schema(raw)
    return Codec(record_type, schema, MARKER + print_, _names(record_type), record_writer(schema, _COLUMNS_BY_SCHEMA))


CODECS: dict[type, Codec] = {record_type: _load(record_type) for record_type in _AVSC}
_DECODERS: dict[bytes, Callable[[bytes], Any]] = {codec.header: codec.decode for codec in CODECS.values()}


def encode(record: Record) -> bytes:
    """Single-object encoding of any record."""
    return CODECS[type(record)].encode(record)


def decode(data: bytes) -> Record:
    """Decodes whichever known record ``data`` holds.

    :raises DecodeError: unknown schema or malformed body.
    """
    decoder = _DECODERS.get(data[:HEADER_BYTES])
    if decoder is None:
        raise DecodeError(f"unknown schema: the record begins with {data[:HEADER_BYTES].hex() or 'nothing'}")
    record: Record = decoder(data)
    return record


def decode_as(record_type: type[R], data: bytes) -> R:
    """Decodes a record that must be of ``record_type``.

    :raises DecodeError: it is not, or is malformed.
    """
    record: R = CODECS[record_type].decode(data)
    return record

"""From a record's bytes to plain values: JSON, plain Avro, Avro with a schema registry's framing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from rillet.schemas import DecodeError, quoted
from rillet.sources.avro_schemas import Schema, UnsafeSchemaError, parse_schema
from rillet.sources.config import ActionSource, FeatureSource
from rillet.sources.errors import SourceError
from rillet.sources.paths import shown

#: the writer's schema of an id in the framing
SchemaOfId = Callable[[int], Schema]

#: in front of a registry's record: a zero byte, and the schema's id of 4 bytes, big-endian
FRAME_BYTES = 5


def load_schema(path: Path) -> Schema:
    """Reads an Avro schema file, parsed.

    :raises SourceError: unreadable, no schema, or one that records cannot be read with safely; with the file.
    """
    try:
        return parse_schema(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except UnsafeSchemaError as error:
        raise SourceError(f"{path}: the Avro schema cannot be used: {error}") from error
    # Of a document that is no schema the parser raises whatever it stumbles on.
    except Exception as error:
        raise SourceError(f"{path}: is no Avro schema ({type(error).__name__}: {error})") from error


def decode_json(value: bytes) -> Mapping[str, Any]:
    """A JSON object; the framing that a schema registry's JSON serializer writes in front is passed over.

    :raises DecodeError: none.
    """
    body = value[FRAME_BYTES:] if value[:1] == b"\0" else value
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"value: is no JSON ({error}); it begins with {quoted(value[:20])}") from error
    if not isinstance(found, dict):
        raise DecodeError(f"value: is no JSON object but {shown(found)}")
    return found


def decode_avro(value: bytes, schema: Schema, begin: int = 0) -> Mapping[str, Any]:
    """An Avro record that ends with the value.

    :param begin: bytes to pass over.
    :raises DecodeError: other bytes than the schema's.
    """
    source = BytesIO(value)
    source.seek(begin)
    try:
        found: Any = fastavro.schemaless_reader(source, schema, None)
    # A body of arbitrary bytes makes the reader fail in many ways.
    except Exception as error:
        raise DecodeError(f"value: does not fit the Avro schema ({type(error).__name__}: {error})") from error
    if source.tell() != len(value):
        raise DecodeError(f"value: has {len(value) - source.tell()} bytes more than its Avro schema describes")
    if not isinstance(found, dict):
        raise DecodeError(f"value: is no Avro record but {shown(found)}")
    return found


def decode_framed(value: bytes, schema_of: SchemaOfId) -> Mapping[str, Any]:
    """An Avro record behind a registry's framing: ``00``, the schema's id, the body.

    :param schema_of: gives the schema of an id; whatever it raises goes on.
    :raises DecodeError: other bytes.
    """
    if value[:1] != b"\0" or len(value) < FRAME_BYTES:
        raise DecodeError(
            f"value: has no schema registry's framing (00 and an id of 4 bytes); it begins with {quoted(value[:20])}"
        )
    return decode_avro(value, schema_of(int.from_bytes(value[1:FRAME_BYTES], "big")), FRAME_BYTES)


def no_registry(schema_id: int) -> Schema:
    """Stands for the registry where none is at hand.

    :raises SourceError: always.
    """
    raise SourceError(f"sources: there is no schema registry to ask for schema {schema_id}")


def decoder(
    source: FeatureSource | ActionSource, schema: Schema, schema_of: SchemaOfId
) -> Callable[[bytes], Mapping[str, Any]]:
    """How records of a source become values.

    :param schema: of format avro.
    :param schema_of: of format registry.
    """
    if source.format == "avro":
        return lambda value: decode_avro(value, schema)
    if source.format == "registry":
        return lambda value: decode_framed(value, schema_of)
    return decode_json

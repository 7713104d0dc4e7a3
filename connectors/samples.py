"""Some records to look at: those of a file that somebody has at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro

from rillet.connectors.errors import ConnectorError
from rillet.sources import is_native
from rillet.sources.avro_schemas import parse_schema
from rillet.sources.config import Format

_CONTAINER = b"Obj\x01"


class SampleError(ConnectorError):
    """A file of sample records that cannot be read; the message begins with its name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One record: its bytes, and the schema that they were written with where it is out of an Avro container file."""

    place: str
    data: bytes | None
    schema: Any = None


def read_samples(path: Path, record_format: Format) -> Iterator[Sample]:
    """The records of a file.

    :param record_format: of the topic. JSON: one record per line, or a single one over several lines. Avro: a container
        file, or the bytes of one message.
    :raises SampleError: the file cannot be read, or is an Avro container where the topic is not Avro.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SampleError(f"{path}: cannot be read ({error.strerror})") from error
    if not data.strip():
        raise SampleError(f"{path}: is empty")
    if data.startswith(_CONTAINER):
        if record_format not in ("avro", "registry"):
            raise SampleError(
                f"{path}: is an Avro container file, and the format of the topic is {record_format!r}; give records as they"
                ' lie on the topic, or set format to "avro" or "registry"'
            )
        yield from _of_container(path)
    elif record_format == "json" and not is_native(data) and not _is_document(data):
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield Sample(f"{path}, line {number}", line)
    else:
        yield Sample(str(path), data)


def _is_document(data: bytes) -> bool:
    """Whether several lines are one JSON value."""
    if b"\n" not in data.strip():
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _of_container(path: Path) -> Iterator[Sample]:
    """The records as they would lie on a topic: each by itself, in the bytes that the container's schema gives."""
    number = 0
    try:
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            schema = parse_schema(json.loads(reader.metadata["avro.schema"]))
            for number, record in enumerate(reader, 1):
                message = BytesIO()
                fastavro.schemaless_writer(message, schema, record)
                yield Sample(f"{path}, record {number}", message.getvalue(), schema)
        if not number:
            raise SampleError(f"{path}: is an Avro container file without records")
    except SampleError:
        raise
    # Arbitrary bytes make the reader fail in many ways.
    except Exception as error:
        raise SampleError(
            f"{path}: damaged Avro container file after {number} records ({type(error).__name__}: {error})"
        ) from error

"""Some records to look at: those of a file that somebody has at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro

from rillet.connectors.errors import ConnectorError
from rillet.sources import is_native
from rillet.sources.config import Format

_CONTAINER = b"Obj\x01"


class SampleError(ConnectorError):
    """A file of sample records that cannot be read; the message begins with its name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One record of a file: its bytes, or its value where the file is an Avro container."""

    place: str
    data: bytes | None
    decoded: Mapping[str, Any] | None = None


def read_samples(path: Path, record_format: Format) -> Iterator[Sample]:
    """The records of a file.

    :param record_format: of the topic. JSON: one record per line, or a single one over several lines. Avro: a container
        file, or the bytes of one message.
    :raises SampleError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SampleError(f"{path}: cannot be read ({error.strerror})") from error
    if not data.strip():
        raise SampleError(f"{path}: is empty")
    if data.startswith(_CONTAINER):
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
    number = 0
    try:
        with path.open("rb") as file:
            record: Any
            for number, record in enumerate(fastavro.reader(file), 1):
                yield Sample(f"{path}, record {number}", None, record)
    # Arbitrary bytes make the reader fail in many ways.
    except Exception as error:
        raise SampleError(
            f"{path}: damaged Avro container file after {number} records ({type(error).__name__}: {error})"
        ) from error

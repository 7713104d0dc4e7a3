"""What a base is: its manifest, written last, and its contents in memory.

A base is the state of a log prefix: its rows are those that a reader has who applied everything below
``next_offset``. (epoch, version) orders bases; a fenced writer's base never beats its successor's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from rillet.schemas.arrays import AnyArray, Float32s, Int64s
from rillet.sync.errors import CorruptArtifactError

FORMAT = 1
Dense = Mapping[str, AnyArray]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a base."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one base."""

    model: str
    table: str
    version: int
    #: epoch of the writer, and the sequence of the first block that the base does not hold
    epoch: int
    next_sequence: int
    #: partition of the log to the position of the first record that the base does not hold
    next_offsets: dict[int, int]
    model_hash: int
    dim: int
    rows: int
    newest_event_ms: int
    newest_ingest_ms: int
    created_ms: int
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The base's folder."""
        return base_name(self.version)

    @property
    def next_offset(self) -> int:
        """Next position of partition 0, the only one of this version."""
        return self.next_offsets[0]

    @property
    def order(self) -> tuple[int, int]:
        """Bases sort by this, oldest first."""
        return self.epoch, self.version

    def to_json(self) -> bytes:
        """The manifest file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Manifest:
        """Reads a manifest file.

        :param where: its path, for the message.
        :raises CorruptArtifactError: it is torn, of another format, or lacks a field.
        """
        try:
            raw = json.loads(text)
            if raw.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            raw["next_offsets"] = {int(partition): int(offset) for partition, offset in raw["next_offsets"].items()}
            raw["files"] = {name: FileEntry(**entry) for name, entry in raw["files"].items()}
            manifest = cls(**raw)
            _ = manifest.next_offset
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptArtifactError(
                f"{where} is no manifest of a base ({type(error).__name__}: {error}); delete its folder"
            ) from error
        return manifest


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A base in memory: all live rows, the dense weights, the exported program and the feature spec."""

    manifest: Manifest
    #: int64[n], distinct, in the order of their hashes
    fids: Int64s
    #: float32[n, dim]
    rows: Float32s
    dense: Dense
    #: a ``torch.export`` archive; opaque here
    program: bytes
    spec_toml: str


def base_name(version: int) -> str:
    """Folder of a base."""
    return f"base-{version:012d}"

"""Which Parquet files are a set of examples, and which offsets of the examples topic follow them: one JSON file.

The manifest alone says what belongs to the set. It is replaced as a whole, so that files and offsets are always of the
same moment; a file of the set that it does not name is what a writer that was killed has left.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.parquet import FORMAT
from rillet.schemas import FeatureSpec
from rillet.sync.files import Files

MANIFEST_FILE = "_manifest.json"


@dataclass(frozen=True, slots=True)
class GroupFile:
    """One file: the rows of one hour in one group. Groups are read one after the other, each as a whole."""

    path: str
    group: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExampleManifest:
    """A state of a set of example files."""

    #: names the set, wherever it is moved to
    set_id: str
    #: who may add to it; whoever finds another name here has been replaced
    writer: str
    #: what the rows were read from, such as "topic examples"
    source: str
    spec_name: str
    spec_hash: int
    #: partition -> offset of the first record that is not in the files; empty where they are not from a topic
    next_offsets: dict[int, int] = field(default_factory=dict)
    #: records that were refused, and are not in the files
    bad_records: int = 0
    files: tuple[GroupFile, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def groups(self) -> int:
        """Number of groups, which are numbered from 0 on."""
        return self.files[-1].group + 1 if self.files else 0

    def check_spec(self, spec: FeatureSpec, where: str) -> None:
        """Refuses another spec than that of the rows.

        :param where: the address, for the message.
        :raises ExampleFilesError: it is another.
        """
        if spec.hash != self.spec_hash:
            raise ExampleFilesError(
                f"{where}: written under feature spec {self.spec_name} ({self.spec_hash:#x}), ours is {spec.name}"
                f" ({spec.hash:#x}); name another address or the configuration of that spec"
            )


def topic_source(topic: str) -> str:
    """What a set of rows of a topic names as its source."""
    return f"topic {topic}"


def read_manifest(files: Files) -> ExampleManifest | None:
    """The manifest as it is now, None where there is none.

    :raises ExampleFilesError: it is malformed or of another format.
    :raises StoreUnavailableError: the storage cannot be read.
    """
    try:
        data = files.read(MANIFEST_FILE)
    except FileNotFoundError:
        return None
    where = files.where(MANIFEST_FILE)
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise ExampleFilesError(
                f"{where}: is of format {raw['format']}, this version of rillet reads format {FORMAT}; go on with that"
                " version, or write the rows again, to another address"
            )
        return ExampleManifest(
            set_id=str(raw["set_id"]),
            writer=str(raw["writer"]),
            source=str(raw["source"]),
            spec_name=str(raw["spec_name"]),
            spec_hash=int(raw["spec_hash"], 16),
            next_offsets={int(partition): int(offset) for partition, offset in raw["next_offsets"].items()},
            bad_records=int(raw["bad_records"]),
            files=tuple(GroupFile(str(p), int(g), int(r), int(b)) for p, g, r, b in raw["files"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExampleFilesError(
            f"{where}: malformed ({type(error).__name__}: {error}); bring it back, or write the rows again, to another address"
        ) from error


def write_manifest(files: Files, manifest: ExampleManifest) -> None:
    """Replaces the manifest.

    :raises StoreUnavailableError: it could not be written; the one before holds.
    """
    body = asdict(manifest)
    body["spec_hash"] = f"{manifest.spec_hash:#x}"
    body["files"] = [[file.path, file.group, file.rows, file.bytes] for file in manifest.files]
    text = json.dumps({"format": FORMAT, **body}, separators=(",", ":"))
    files.write_whole(MANIFEST_FILE, text.encode())

"""Example files as the trainer's source: in the order in which the rows were read from the topic, or shuffled.

The order is fixed by the files, the number of passes and the shuffle's window and seed. So a position in it is a record
number, as in a topic, and a run that was killed goes on with the next row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_manifest import ExampleManifest, GroupFile, read_manifest
from rillet.connectors.parquet import decode_table, in_order, to_block
from rillet.schemas import ClosedError, FeatureSpec
from rillet.sync.files import Files
from rillet.trainer import Positions, ReadBlock

#: what files have in the trainer's positions in place of a partition of the topic
FILES_PARTITION = -1
#: rows of a record
CHUNK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class FilePlan:
    """Which rows of a set are read, in which order; the same plan gives the same records."""

    #: of the manifest
    set_id: str
    #: files that were added later are not read
    groups: int
    rows: int
    #: offsets of the topic that follow the rows
    next_offsets: dict[int, int]
    #: how often all rows are read
    epochs: int = 1
    #: every so many rows are mixed among each other; 0 keeps the order
    shuffle_rows: int = 0
    seed: int = 0
    chunk_rows: int = CHUNK_ROWS

    @classmethod
    def of(cls, manifest: ExampleManifest, *, epochs: int = 1, shuffle_rows: int = 0, seed: int = 0) -> FilePlan:
        """A plan for everything that is in the files now."""
        return cls(manifest.set_id, manifest.groups, manifest.rows, manifest.next_offsets, epochs, shuffle_rows, seed)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> FilePlan:
        """What :meth:`to_json` gave."""
        plan = cls(**raw)
        return replace(plan, next_offsets={int(partition): at for partition, at in plan.next_offsets.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @property
    def records_per_epoch(self) -> int:
        """Records of one pass."""
        return -(-self.rows // self.chunk_rows)

    @property
    def records(self) -> int:
        """Records of all passes: the number after the last one."""
        return self.epochs * self.records_per_epoch

    @property
    def window_rows(self) -> int:
        """Rows that are mixed among each other, a whole number of records."""
        return max(1, -(-self.shuffle_rows // self.chunk_rows)) * self.chunk_rows


class FileSource:
    """A :class:`rillet.trainer.ExampleSource` over a set of files; ends after the last pass.

    Holds one group of files, and one window of the shuffle.
    """

    trouble = ""

    def __init__(self, url: str, spec: FeatureSpec, plan: FilePlan, positions: Positions | None = None) -> None:
        """
        :param url: any fsspec URL or a local path.
        :param plan: of this set; it may have grown since.
        :param positions: where to go on; only that of ``FILES_PARTITION`` is looked at. Rows within a record are not
            skipped here: ``OnlineTrainer`` does that.
        :raises StoreUnavailableError: no such file system.
        """
        self._files = Files(url, setting="--batch-from")
        self._spec = spec
        self._plan = plan
        self._first = (positions or {}).get(FILES_PARTITION, (0, 0))[0]
        self._groups: list[list[GroupFile]] = []
        self._records: Iterator[ReadBlock] | None = None

    def start(self) -> None:
        """Reads the manifest.

        :raises ExampleFilesError: it is not that of the plan, or of another spec.
        :raises StoreUnavailableError: the storage cannot be read.
        """
        manifest = open_example_files(self._files, self._spec)
        files = [file for file in manifest.files if file.group < self._plan.groups]
        rows = sum(file.rows for file in files)
        if (manifest.set_id, rows) != (self._plan.set_id, self._plan.rows):
            raise ExampleFilesError(
                f"{self._files.where()}: these are not the files that the batch stage began with: {rows} rows of set"
                f" {manifest.set_id} instead of {self._plan.rows} of {self._plan.set_id}; bring those back, or start"
                " a new model"
            )
        self._groups = [list(group) for _, group in groupby(files, lambda file: file.group)]
        self._records = self._read(self._first)

    def poll(self, max_items: int, timeout_s: float) -> Sequence[ReadBlock] | None:
        """The next record, alone since it is large; None once all were given.

        :raises ExampleFilesError: a file is missing or damaged.
        :raises StoreUnavailableError: the storage cannot be read.
        :raises ClosedError: not started, or closed.
        """
        if self._records is None:
            raise ClosedError(f"{self._files.where()}: the source was not started, or is closed")
        record = next(self._records, None)
        return None if record is None else [record]

    def lag(self, positions: Positions) -> int:
        """Records of the plan after ``positions``."""
        return self._plan.records - positions.get(FILES_PARTITION, (0, 0))[0]

    def close(self) -> None:
        """Forgets what was read ahead."""
        if self._records is not None:
            self._records = None
            self._groups = []

    def _read(self, number: int) -> Iterator[ReadBlock]:
        """Records from ``number`` on."""
        plan = self._plan
        chunk, per_epoch, per_window = plan.chunk_rows, plan.records_per_epoch, plan.window_rows // plan.chunk_rows
        while number < plan.records:
            epoch, in_epoch = divmod(number, per_epoch)
            window = in_epoch // per_window
            skipped = in_epoch % per_window * chunk
            for table in self._windows(window * plan.window_rows):
                if plan.shuffle_rows:
                    random = np.random.default_rng((plan.seed, epoch, window))
                    table = table.take(pa.array(random.permutation(table.num_rows)))
                for start in range(skipped, table.num_rows, chunk):
                    block = to_block(table.slice(start, chunk), self._spec, ingest_times=False)
                    yield ReadBlock(FILES_PARTITION, number, block)
                    number += 1
                window, skipped = window + 1, 0

    def _windows(self, first_row: int) -> Iterator[pa.Table]:
        """The rows of one pass from ``first_row`` on, so many at a time as are mixed; the last ones may be fewer."""
        wanted = self._plan.window_rows
        held: list[pa.Table] = []
        missing = wanted
        for table in self._tables(first_row):
            start = 0
            while table.num_rows - start >= missing:
                held.append(table.slice(start, missing))
                yield pa.concat_tables(held).combine_chunks()
                start, held, missing = start + missing, [], wanted
            if start < table.num_rows:
                held.append(table.slice(start))
                missing -= table.num_rows - start
        if held:
            yield pa.concat_tables(held).combine_chunks()

    def _tables(self, first_row: int) -> Iterator[pa.Table]:
        """The rows of one pass from ``first_row`` on, group by group."""
        for group in self._groups:
            rows = sum(file.rows for file in group)
            if first_row >= rows:
                first_row -= rows
                continue
            yield in_order([self._read_file(file) for file in group]).slice(first_row)
            first_row = 0

    def _read_file(self, file: GroupFile) -> pa.Table:
        where = self._files.where(file.path)
        try:
            data = self._files.read(file.path)
        except FileNotFoundError as error:
            raise ExampleFilesError(f"{where}: is missing, the manifest names it; bring it back") from error
        try:
            table = decode_table(data, self._spec, ingest_times=False)
        except ExampleFilesError as error:
            raise ExampleFilesError(f"{where}: {error}") from error
        if (table.num_rows, len(data)) != (file.rows, file.bytes):
            raise ExampleFilesError(
                f"{where}: {table.num_rows} rows in {len(data)} bytes, the manifest says {file.rows} in {file.bytes}"
            )
        return table


def open_example_files(files: Files, spec: FeatureSpec) -> ExampleManifest:
    """The manifest of a set that is to be read.

    :raises ExampleFilesError: there is none, or it is of another spec.
    :raises StoreUnavailableError: the storage cannot be read.
    """
    manifest = read_manifest(files)
    if manifest is None:
        raise ExampleFilesError(
            f"{files.where()}: there are no example files; write some with `rillet dump` or `rillet join --recording`"
        )
    manifest.check_spec(spec, files.where())
    return manifest

"""Writes example rows to Parquet files by hour, and makes them count by replacing the manifest.

``hour=2000-04-25T22/part-....parquet`` holds rows of requests that were made in that hour, by event time (UTC). Rows
that come later go to a new file of the old hour; no file is ever changed. Killed at any point, what counts are the rows
of the last commit.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pyarrow as pa

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_manifest import (
    MANIFEST_FILE,
    ExampleManifest,
    GroupFile,
    read_manifest,
    write_manifest,
)
from rillet.connectors.limits import GROUP_ROWS
from rillet.connectors.parquet import encode_table, to_table
from rillet.schemas import FeatureSpec
from rillet.sync.files import Files
from rillet.trainer import ReadBlock

_HOUR_MS = 3_600_000
_FOLDER = "hour="


class ExampleWriter:
    """Adds rows to one set of files; the only writer of it at a time."""

    def __init__(self, url: str, spec: FeatureSpec, source: str, *, group_rows: int = GROUP_ROWS) -> None:
        """
        :param url: any fsspec URL or a local path; files of its own only.
        :param source: what the rows are read from; a set takes rows of one source.
        :param group_rows: rows that are held before they are written together.
        :raises StoreUnavailableError: no such file system.
        """
        self._files = Files(url, setting="--to or [dump] to")
        self.url = url
        self._spec = spec
        self._source = source
        self._group_rows = group_rows
        self._manifest: ExampleManifest | None = None
        self._waiting: list[ReadBlock] = []
        self._waiting_rows = 0
        self._written: list[GroupFile] = []

    @property
    def manifest(self) -> ExampleManifest:
        """What counts: the last commit.

        :raises ExampleFilesError: not opened.
        """
        if self._manifest is None:
            raise ExampleFilesError(f"{self.url}: the writer was not opened")
        return self._manifest

    @property
    def uncommitted_rows(self) -> int:
        """Rows that were added since the last commit."""
        return self._waiting_rows + sum(file.rows for file in self._written)

    def open(self) -> ExampleManifest:
        """Takes the set over, or begins a new one, and deletes the uncommitted files of this set's earlier writers.

        Nothing else is deleted: a file of this set has the set's id in its name.

        :returns: what is there already.
        :raises ExampleFilesError: it is of another spec or source, or something else lies there.
        :raises StoreUnavailableError: the storage cannot be read or written.
        """
        writer = uuid.uuid4().hex
        found = read_manifest(self._files)
        if found is None:
            # The manifest is written before the first file, so files without one are another's, or it was lost.
            others = [name for name in self._files.names() if not name.startswith(MANIFEST_FILE)]
            if others:
                raise ExampleFilesError(
                    f"{self.url}: holds {min(others)} and no {MANIFEST_FILE}; name an empty or new folder, or, if these"
                    " are example files whose manifest was lost, bring the manifest back or move the files away"
                )
            found = ExampleManifest(uuid.uuid4().hex, writer, self._source, self._spec.name, self._spec.hash)
        found.check_spec(self._spec, self.url)
        if found.source != self._source:
            raise ExampleFilesError(
                f"{self.url}: its rows are from {found.source}, not from {self._source}; name another address"
            )
        self._manifest = replace(found, writer=writer)
        # Before anything is deleted: a writer that still runs finds this at its next commit.
        write_manifest(self._files, self._manifest)
        self._delete_uncommitted()
        return self._manifest

    def add(self, record: ReadBlock) -> None:
        """Takes the next record; a record without a block has no rows, only a place."""
        if record.block is not None and len(record.block):
            self._waiting.append(record)
            self._waiting_rows += len(record.block)

    @property
    def full(self) -> bool:
        """Whether :meth:`write_group` is due."""
        return self._waiting_rows >= self._group_rows

    def write_group(self) -> None:
        """Writes the rows that wait to files of their own. They do not count before the next commit.

        :raises StoreUnavailableError: they still wait; call again.
        """
        if not self._waiting:
            return
        last = self._written or self.manifest.files
        group = last[-1].group + 1 if last else 0
        number = self.manifest.rows + sum(file.rows for file in self._written)
        table = to_table(self._waiting, self._spec, first_number=number)
        self._written += [self._write_file(group, hour, part) for hour, part in _by_hour(table)]
        self._waiting.clear()
        self._waiting_rows = 0

    def commit(self, next_offsets: dict[int, int] | None = None, *, bad_records: int = 0) -> ExampleManifest:
        """Makes everything that was added count.

        :param next_offsets: after the last record that was added, by partition.
        :param bad_records: refused since the last commit.
        :raises ExampleFilesError: another writer has taken over; nothing more may be added here.
        :raises StoreUnavailableError: nothing is lost; call again.
        """
        self.write_group()
        ours = self.manifest
        found = read_manifest(self._files)
        if found is None or (found.set_id, found.writer) != (ours.set_id, ours.writer):
            raise ExampleFilesError(
                f"{self.url}: another process has begun to write here, or the manifest was removed; stop one of them."
                " What was committed before counts, nothing of it is lost"
            )
        new = replace(
            ours,
            next_offsets=ours.next_offsets | (next_offsets or {}),
            bad_records=ours.bad_records + bad_records,
            files=(*ours.files, *self._written),
        )
        write_manifest(self._files, new)
        self._manifest = new
        self._written.clear()
        return new

    def _write_file(self, group: int, hour: str, rows: pa.Table) -> GroupFile:
        data = encode_table(rows)
        # With the writer's name in it, so that what an earlier one has left is never taken for it.
        path = f"{_FOLDER}{hour}/part-{group:08d}-{self._marker}-{self.manifest.writer[:8]}.parquet"
        self._files.write(path, data.to_pybytes())
        return GroupFile(path, group, rows.num_rows, data.size)

    @property
    def _marker(self) -> str:
        """What only the names of this set's files hold."""
        return self.manifest.set_id[:16]

    def _delete_uncommitted(self) -> None:
        committed = {file.path for file in self.manifest.files}
        for folder in self._files.names():
            if folder.startswith(_FOLDER):
                for name in self._files.names(folder):
                    if (path := f"{folder}/{name}") not in committed and f"-{self._marker}-" in name:
                        self._files.delete(path)


def _by_hour(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """The rows of each hour in which requests were made, in their order."""
    hours = table.column("feature_time_ms").to_numpy() // _HOUR_MS
    if hours[0] == hours[-1] and (hours == hours[0]).all():
        return [(_hour_name(hours[0]), table)]
    order = np.argsort(hours, kind="stable")
    found, starts = np.unique(hours[order], return_index=True)
    ordered = table.take(pa.array(order))
    ends = [*starts[1:], len(hours)]
    return [
        (_hour_name(hour), ordered.slice(start, end - start))
        for hour, start, end in zip(found, starts, ends, strict=True)
    ]


def _hour_name(hour: int) -> str:
    return str(np.datetime64(int(hour), "h"))

"""What the writer of example files does to a folder that it finds: nothing of anybody else is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_manifest import MANIFEST_FILE
from rillet.connectors.example_writer import ExampleWriter
from tests.connectors.example_sets import as_read, impressions, numbered_blocks, read_all
from tests.trainer.blocks import RAGGED

BLOCKS = numbered_blocks(6)


def _writer(folder: Path) -> ExampleWriter:
    return ExampleWriter(str(folder), RAGGED, "topic examples")


def _dumped(folder: Path) -> None:
    writer = _writer(folder)
    writer.open()
    for record in as_read(BLOCKS):
        writer.add(record)
    writer.commit({0: 3, 1: 3})


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_somebodys_table_by_hour_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    table = tmp_path / "hour=2026-01-01T00" / "clicks.snappy.parquet"
    table.parent.mkdir()
    table.write_bytes(b"somebody's table")
    with pytest.raises(ExampleFilesError, match=r"holds hour=2026-01-01T00 and no _manifest.json"):
        _writer(tmp_path).open()
    assert _files(tmp_path) == {"hour=2026-01-01T00/clicks.snappy.parquet"}


def test_a_set_whose_manifest_is_lost_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    _dumped(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()
    before = _files(tmp_path)
    assert before
    with pytest.raises(ExampleFilesError, match="bring the manifest back"):
        _writer(tmp_path).open()
    assert _files(tmp_path) == before


def test_only_what_a_writer_of_this_set_has_left_is_deleted(tmp_path: Path) -> None:
    folder, other = tmp_path / "set", tmp_path / "other"
    _dumped(folder)
    committed = _files(folder)
    killed = _writer(folder)
    killed.open()
    killed.add(as_read(BLOCKS)[0])
    killed.write_group()
    left = _files(folder) - committed
    assert left
    _dumped(other)
    foreign = next(other.glob("hour=*/*.parquet"))
    hour = next(folder.glob("hour=*"))
    (hour / foreign.name).write_bytes(b"of another set")
    (hour / "notes.parquet").write_bytes(b"somebody's")
    _writer(folder).open()
    assert _files(folder) == committed | {f"{hour.name}/{foreign.name}", f"{hour.name}/notes.parquet"}
    assert impressions(read_all(str(folder))) == list(range(6 * 7))

"""Files as a source: order, shuffles and passes are fixed; what is missing or damaged is named."""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_manifest import MANIFEST_FILE, ExampleManifest, GroupFile, read_manifest, write_manifest
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FilePlan, FileSource
from rillet.sync.files import Files
from tests.connectors.example_sets import as_read, impressions, numbered_blocks, read_all
from tests.trainer.blocks import RAGGED

ROWS = 40 * 7


@pytest.fixture(scope="module")
def url() -> str:
    url = f"memory://{uuid.uuid4().hex}"
    writer = ExampleWriter(url, RAGGED, "topic examples", group_rows=50)
    writer.open()
    for record in as_read(numbered_blocks(40)):
        writer.add(record)
        if writer.full:
            writer.write_group()
    writer.commit({0: 20, 1: 20})
    return url


@pytest.fixture
def plan(url: str) -> FilePlan:
    manifest = read_manifest(Files(url))
    assert manifest is not None
    return replace(FilePlan.of(manifest), chunk_rows=16)


def test_rows_come_in_the_order_in_which_they_were_read_over_hours_and_groups(url: str, plan: FilePlan) -> None:
    records = read_all(url, plan)
    assert impressions(records) == list(range(ROWS))
    assert [record.offset for record in records] == list(range(plan.records)) == list(range(18))
    assert {len(record.block) for record in records[:-1] if record.block is not None} == {16}


def test_a_shuffle_mixes_within_its_window_and_leaves_no_row_out(url: str, plan: FilePlan) -> None:
    found = impressions(read_all(url, replace(plan, shuffle_rows=60, seed=3)))
    assert sorted(found) == list(range(ROWS))
    for start in range(0, ROWS, 64):
        window = found[start : start + 64]
        assert sorted(window) == list(range(start, min(start + 64, ROWS)))
        assert window != sorted(window)


def test_every_pass_is_shuffled_in_another_way_and_every_seed(url: str, plan: FilePlan) -> None:
    found = impressions(read_all(url, replace(plan, shuffle_rows=1_000, epochs=2)))
    assert sorted(found[:ROWS]) == sorted(found[ROWS:]) == list(range(ROWS))
    assert found[:ROWS] != found[ROWS:]
    assert impressions(read_all(url, replace(plan, shuffle_rows=1_000, seed=1))) != found[:ROWS]


@pytest.mark.parametrize("shuffle_rows", [0, 60, 1_000])
def test_from_any_record_on_the_same_records_come(url: str, plan: FilePlan, shuffle_rows: int) -> None:
    plan = replace(plan, chunk_rows=32, shuffle_rows=shuffle_rows, epochs=2)
    whole = read_all(url, plan)
    for start in range(plan.records + 1):
        # Some windows are read to the end, so that what comes after the first records is seen too.
        limit = None if start % 10 == 0 else 2
        rest = read_all(url, plan, start, limit=limit)
        expected = whole[start:] if limit is None else whole[start : start + limit]
        assert [record.offset for record in rest] == [record.offset for record in expected]
        assert impressions(rest) == impressions(expected)


def test_no_more_than_a_group_and_a_window_are_held(url: str, plan: FilePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = Files.read
    monkeypatch.setattr(Files, "read", lambda files, path: read.append(path) or plain(files, path))
    source = FileSource(url, RAGGED, plan)
    source.start()
    manifest = read_manifest(Files(url))
    assert manifest is not None
    group_of = {file.path: file.group for file in manifest.files}
    for record in range(plan.records):
        while not (found := source.poll(10, 0.0)):
            assert found is not None
        newest = max(group_of[path] for path in read if path in group_of)
        assert newest <= (record + 1) * plan.chunk_rows // 50 + 1
    assert newest == plan.groups - 1


def test_ingest_times_are_left_out_since_they_say_nothing_of_how_fresh_the_model_is(url: str, plan: FilePlan) -> None:
    for record in read_all(url, plan):
        assert record.block is not None
        assert set(record.block.action_ingest_ms) | set(record.block.feature_ingest_ms) == {-1}


def _copy(url: str) -> tuple[str, ExampleManifest]:
    other = f"memory://{uuid.uuid4().hex}"
    source, target = Files(url), Files(other)
    manifest = read_manifest(source)
    assert manifest is not None
    for file in manifest.files:
        target.write(file.path, source.read(file.path))
    write_manifest(target, manifest)
    return other, manifest


def test_a_file_that_is_missing_is_named(url: str) -> None:
    other, manifest = _copy(url)
    Files(other).delete(manifest.files[4].path)
    with pytest.raises(ExampleFilesError, match=f"{manifest.files[4].path}: is missing"):
        read_all(other)


def test_a_file_that_was_cut_or_swapped_is_named(url: str) -> None:
    other, manifest = _copy(url)
    files = Files(other)
    path, others = manifest.files[4].path, manifest.files[5].path
    data = files.read(path)
    files.write(path, data[: len(data) // 2])
    with pytest.raises(ExampleFilesError, match=f"{path}: damaged, or no Parquet"):
        read_all(other)
    files.write(path, files.read(others))
    with pytest.raises(ExampleFilesError, match=f"{path}: .* the manifest says"):
        read_all(other)


def test_a_manifest_says_what_is_wrong_with_it(url: str) -> None:
    other, manifest = _copy(url)
    files = Files(other)
    assert read_manifest(files) == manifest
    files.write(MANIFEST_FILE, b'{"format": 9}')
    with pytest.raises(ExampleFilesError, match="is of format 9"):
        read_manifest(files)
    files.write(MANIFEST_FILE, b'{"format": 1}')
    with pytest.raises(ExampleFilesError, match=r"malformed .*set_id"):
        read_manifest(files)
    assert read_manifest(Files(f"memory://{uuid.uuid4().hex}")) is None


def test_a_plan_counts_the_records_of_all_passes() -> None:
    files = (GroupFile("a", 0, 10, 1), GroupFile("b", 1, 7, 1))
    manifest = ExampleManifest("id", "me", "topic examples", "films", 1, {0: 3}, 0, files)
    plan = replace(FilePlan.of(manifest, epochs=3), chunk_rows=4)
    assert (plan.groups, plan.rows, plan.records_per_epoch, plan.records) == (2, 17, 5, 15)
    assert replace(plan, shuffle_rows=5).window_rows == 8
    assert np.unique([plan.window_rows, plan.chunk_rows]).tolist() == [4]

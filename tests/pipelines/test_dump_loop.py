"""The dump on lists and a storage that fails: every row once, wherever it is killed."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_manifest import ExampleManifest, read_manifest
from rillet.connectors.example_writer import ExampleWriter
from rillet.jobs.config import RilletConfig
from rillet.jobs.dump import wire_dump
from rillet.pipelines import dump_loop
from rillet.pipelines.dump_loop import DumpLoop, DumpMetrics
from rillet.schemas import FlushTimeoutError, SpecRegistry, dump_spec, encode
from rillet.sync import StoreUnavailableError
from rillet.sync.files import Files
from rillet.trainer import BadRecord, ListSource, RawRecord, ReadBlock
from tests.connectors.example_sets import (
    FaultyFileSystem,
    KilledError,
    impressions,
    numbered_blocks,
    read_all,
    two_partitions,
)
from tests.pipelines.train_parts import Clock, EndlessSource, Letters
from tests.trainer.blocks import RAGGED

BLOCKS = numbered_blocks(8)
RECORDS = two_partitions(BLOCKS)
ROWS = list(range(8 * 7))


class OneByOne(ListSource):
    """Gives single records, so that commits come between them."""

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        return super().poll(1, timeout_s)


def _loop(
    url: str, records: Sequence[RawRecord] = RECORDS, letters: Letters | None = None, kind: type[ListSource] = OneByOne
) -> DumpLoop[BadRecord]:
    """Commits after about every second record, and writes groups of two records."""
    return DumpLoop(
        ExampleWriter(url, RAGGED, "topic examples", group_rows=14),
        SpecRegistry(RAGGED),
        source=lambda positions: kind(records, positions),
        letters=letters or Letters(),
        to_letter=lambda bad: bad,
        metrics=DumpMetrics(),
        starts=lambda: {0: 0, 1: 0},
        commit_interval_ms=2,
        now_ms=Clock(1),
    )


def _manifest(url: str) -> ExampleManifest:
    found = read_manifest(Files(url))
    assert found is not None
    return found


def _url(kind: str = "memory") -> str:
    return f"{kind}://{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_loop, "_RETRY_S", 0.001)
    FaultyFileSystem.arm(None)


def test_records_of_another_spec_are_passed_over_not_one_dead_letter_each(caplog: pytest.LogCaptureFixture) -> None:
    url, letters = _url(), Letters()
    other = encode(replace(BLOCKS[0], spec_hash=0xABC))
    loop = _loop(url, [RawRecord(0, 0, other), RawRecord(0, 1, other), RawRecord(0, 2, encode(BLOCKS[0]))], letters)
    loop.run(threading.Event())
    assert not letters.taken
    assert _manifest(url).rows == len(BLOCKS[0])
    assert _manifest(url).next_offsets == {0: 3, 1: 0}
    assert loop.metrics.registry.get_sample_value("rillet_dump_other_spec_records_total") == 2
    assert "records of feature spec 0xabc were passed over" in caplog.text


def test_intervals_are_measured_by_a_clock_that_is_never_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.toml").write_text(dump_spec(RAGGED))
    loop = wire_dump(RilletConfig(spec=tmp_path / "spec.toml", data_dir=tmp_path), until_latest=True)
    before = loop._now_ms()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= loop._now_ms() - before < 10_000


def test_every_row_is_dumped_in_the_order_in_which_it_was_read() -> None:
    url = _url()
    loop = _loop(url)
    loop.run(threading.Event())
    assert impressions(read_all(url)) == ROWS
    manifest = _manifest(url)
    assert manifest.next_offsets == {0: 4, 1: 4}
    assert {file.path.partition("/")[0] for file in manifest.files} == {f"hour=1970-01-01T0{hour}" for hour in range(3)}
    counted = loop.metrics.registry.get_sample_value
    assert counted("rillet_dump_rows_total") == len(ROWS)
    assert counted("rillet_dump_files_total") == len(manifest.files)
    assert counted("rillet_dump_bytes_total") == sum(file.bytes for file in manifest.files)
    assert counted("rillet_dump_uncommitted_rows") == 0
    assert not loop.ready


def test_partitions_without_a_record_are_named_with_their_start_and_later_ones_keep_their_offset() -> None:
    url = _url()
    for records, starts, expected in (
        ([], {0: 0, 1: 0, 2: 7}, {0: 0, 1: 0, 2: 7}),
        (RECORDS[:2], {0: 0, 1: 0, 2: 9}, {0: 1, 1: 1, 2: 7}),
    ):
        loop = _loop(url, records)
        loop._starts = lambda starts=starts: starts  # type: ignore[misc]
        loop.run(threading.Event())
        assert _manifest(url).next_offsets == expected


def test_it_logs_where_it_writes(caplog: pytest.LogCaptureFixture) -> None:
    url = _url()
    with caplog.at_level("INFO"):
        _loop(url).run(threading.Event())
    assert caplog.messages[0] == f"writing to {url}: 0 rows are there, going on at {{}}"


def test_a_later_dump_adds_what_has_come_since_also_to_an_old_hour() -> None:
    url = _url()
    _loop(url, RECORDS[:4]).run(threading.Event())
    before = _manifest(url).files
    _loop(url).run(threading.Event())
    after = _manifest(url).files
    assert after[: len(before)] == before
    assert {file.path.partition("/")[0] for file in after[len(before) :]} & {f.path.partition("/")[0] for f in before}
    assert impressions(read_all(url)) == ROWS


def _killed_at(url: str, step: int, how: str, records: Sequence[RawRecord] = RECORDS) -> bool:
    """Whether there was such a step."""
    FaultyFileSystem.arm(step, how)
    try:
        _loop(url, records).run(threading.Event())
    except KilledError:
        return True
    finally:
        FaultyFileSystem.arm(None)
    return False


@pytest.mark.parametrize("how", ["midst", "after"])
def test_killed_at_any_step_nothing_is_lost_and_nothing_twice_and_nothing_is_left_lying(how: str) -> None:
    step = 0
    records, rows = RECORDS[:6], ROWS[: 6 * 7]
    while _killed_at(url := _url("faulty"), step, how, records):
        manifest = read_manifest(Files(url))
        if manifest is not None and manifest.files:
            found = impressions(read_all(url))
            assert found == rows[: len(found)], "what counts after a kill are the first rows"
        _loop(url, records).run(threading.Event())
        assert impressions(read_all(url)) == rows, f"killed at step {step}"
        names = {
            f"{folder}/{name}"
            for folder in Files(url).names()
            if folder.startswith("hour=")
            for name in Files(url).names(folder)
        }
        assert names == {file.path for file in _manifest(url).files}, f"killed at step {step}"
        step += 1
    assert step >= 12, "claim, groups of up to three hours, commits of two steps"


def test_killed_again_and_again_it_still_gets_everything() -> None:
    url = _url("faulty")
    for step in (5, 3, 0, 7, 1, 2, 4, 6):
        _killed_at(url, step, "midst")
    _loop(url).run(threading.Event())
    assert impressions(read_all(url)) == ROWS


@pytest.mark.parametrize("step", range(2, 14))
def test_a_storage_that_is_away_for_a_moment_is_waited_for(step: int) -> None:
    url = _url("faulty")
    FaultyFileSystem.arm(step, "away")
    loop = _loop(url)
    loop.run(threading.Event())
    assert impressions(read_all(url)) == ROWS
    assert loop.metrics.registry.get_sample_value("rillet_dump_storage_failures_total") == 1


def test_a_stop_while_the_storage_is_away_gives_up_what_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    url = _url()
    _loop(url, RECORDS[:2]).run(threading.Event())
    stop = threading.Event()
    loop = _loop(url)

    def away(*_: object) -> None:
        stop.set()
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(loop._writer, "write_group", away)
        with pytest.raises(StoreUnavailableError):
            loop.run(stop)
    assert impressions(read_all(url)) == ROWS[:14]
    _loop(url).run(threading.Event())
    assert impressions(read_all(url)) == ROWS


def test_a_stop_commits_what_was_read() -> None:
    url, stop = _url(), threading.Event()
    loop = _loop(url, kind=EndlessSource)
    thread = threading.Thread(target=loop.run, args=(stop,), daemon=True)
    thread.start()
    while read_manifest(Files(url)) is None or _manifest(url).rows < 28:
        assert thread.is_alive()
    assert loop.ready
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    found = impressions(read_all(url))
    assert found == ROWS[: len(found)]
    assert sum(_manifest(url).next_offsets.values()) == len(found) // 7


def test_records_that_are_no_blocks_are_dead_letters_and_passed() -> None:
    url, letters = _url(), Letters()
    records = [RECORDS[0], RawRecord(1, 0, b"noise"), RECORDS[2]]
    loop = _loop(url, records, letters)
    loop.run(threading.Event())
    assert [(bad.record.partition, bad.record.offset) for bad in letters.taken] == [(1, 0)]
    manifest = _manifest(url)
    assert (manifest.next_offsets, manifest.rows, manifest.bad_records) == ({0: 2, 1: 1}, 14, 1)
    assert loop.metrics.registry.get_sample_value("rillet_dump_bad_records_total") == 1


def test_no_offset_passes_a_letter_that_was_not_delivered() -> None:
    url, letters = _url(), Letters()
    letters.flush_error = FlushTimeoutError("1 letter waits")
    with pytest.raises(FlushTimeoutError):
        _loop(url, [RECORDS[0], RawRecord(1, 0, b"noise")], letters).run(threading.Event())
    assert _manifest(url).rows == 0


def test_of_two_dumps_the_one_that_started_first_stops_and_no_row_is_lost_or_twice() -> None:
    url = _url()

    class Overtaken(OneByOne):
        """A second dump does everything before the first record."""

        def start(self) -> None:
            _loop(url).run(threading.Event())

    with pytest.raises(ExampleFilesError, match="another process has begun to write here"):
        _loop(url, kind=Overtaken).run(threading.Event())
    assert impressions(read_all(url)) == ROWS


def test_a_set_takes_rows_of_one_topic_and_one_spec() -> None:
    url = _url()
    _loop(url).run(threading.Event())
    with pytest.raises(ExampleFilesError, match=r"its rows are from topic examples, not from topic others"):
        ExampleWriter(url, RAGGED, "topic others").open()


def test_a_folder_of_something_else_is_left_alone() -> None:
    url = _url()
    Files(url).write("report.csv", b"mine")
    with pytest.raises(ExampleFilesError, match=r"holds report.csv and no _manifest.json"):
        _loop(url).run(threading.Event())
    assert Files(url).names() == ["report.csv"]


def test_rows_know_where_they_came_from() -> None:
    url = _url()
    _loop(url).run(threading.Event())
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(pa.BufferReader(Files(url).read(file.path))) for file in _manifest(url).files]
    rows = pa.concat_tables(tables).sort_by("number").to_pylist()
    places = [(row["partition"], row["offset"], row["row"]) for row in rows]
    assert places == [(number % 2, number // 2, row) for number in range(8) for row in range(7)]
    assert [row["number"] for row in rows] == ROWS
    assert [row["request_id"] for row in rows[:8]] == [f"request-0-{i}" for i in range(7)] + ["request-1-0"]


def test_a_block_without_rows_moves_the_offset_alone() -> None:
    url = _url()
    writer = ExampleWriter(url, RAGGED, "topic examples")
    writer.open()
    writer.add(ReadBlock(0, 3, None))
    assert writer.commit({0: 4}).next_offsets == {0: 4}
    assert writer.manifest.files == ()

"""The batch stage: what it plans, and that files and then the topic teach what one run over all rows teaches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.connectors.batch_then_online import BatchThenOnline
from rillet.connectors.errors import ExampleFilesError
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FILES_PARTITION, FilePlan, FileSource
from rillet.jobs.batch_stage import BatchOptions, BatchStage
from rillet.jobs.errors import ServiceError
from rillet.schemas import ExampleBlock, decode_as, parse_spec
from rillet.trainer import ExampleSource, ListSource, Positions, RawRecord, ReadBlock
from tests.jobs.train_parts import Parts, encoded_blocks
from tests.trainer.blocks import RAGGED

#: the topic of all tests: records of both partitions in turn, of which the first ones are dumped
VALUES = encoded_blocks(14, rows=37)
RECORDS = [RawRecord(number % 2, number // 2, value) for number, value in enumerate(VALUES)]
DUMPED = 8


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The first records as files, of several groups."""
    url = str(tmp_path / "files")
    writer = ExampleWriter(url, RAGGED, "topic examples", group_rows=100)
    writer.open()
    for record in RECORDS[:DUMPED]:
        writer.add(ReadBlock(record.partition, record.offset, decode_as(ExampleBlock, record.value)))
        if writer.full:
            writer.write_group()
    writer.commit({0: 4, 1: 4})
    return url


def _stage(url: str, **changed: int) -> BatchStage:
    stage = BatchStage.planned(BatchOptions(url), None, {}, RAGGED, seed=0)
    assert stage is not None
    return replace(stage, plan=replace(stage.plan, chunk_rows=50, **changed))


class _KillError(Exception):
    """Stands for a kill."""


class _Killed:
    """Dies after so many records."""

    trouble = ""

    def __init__(self, source: ExampleSource, polls: int) -> None:
        self._source, self._polls = source, polls

    def start(self) -> None:
        self._source.start()

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord | ReadBlock] | None:
        if not self._polls:
            raise _KillError
        self._polls -= 1
        return self._source.poll(1, timeout_s)

    def lag(self, positions: Positions) -> int:
        return self._source.lag(positions)

    def close(self) -> None:
        self._source.close()


def _batch_then_online(folder: Path, stage: BatchStage, polls: int | None = None) -> Parts:
    """A run that goes on where the checkpoint in ``folder`` is, not started yet."""
    parts = Parts(folder, ListSource([]), batch_stage=stage)
    positions = parts.trainer.positions
    online = stage.online_positions(positions)
    source: ExampleSource = BatchThenOnline(stage.source(RAGGED, positions), lambda: ListSource(RECORDS, online))
    source = source if polls is None else _Killed(source, polls)
    return Parts(folder, source, batch_stage=stage)


def _assert_same_model(one: Parts, other: Parts) -> None:
    states = [{**parts.trainer.table.state(), **_dense(parts)} for parts in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    assert one.trainer.counters == other.trainer.counters
    for name, value in one.trainer.quality.state().items():
        np.testing.assert_array_equal(value, other.trainer.quality.state()[name], err_msg=name)


def _dense(parts: Parts) -> dict[str, np.ndarray]:
    learner = parts.trainer.learner
    weights = {f"dense.{name}": value.numpy() for name, value in learner.model.state_dict().items()}
    return weights | {f"optimizer.{name}": value for name, value in learner.optimizer_state().items()}


def _continuous(folder: Path) -> Parts:
    parts = Parts(folder, ListSource(RECORDS))
    parts.run()
    return parts


def test_files_and_then_the_topic_teach_what_one_run_over_all_rows_teaches(url: str, tmp_path: Path) -> None:
    whole = _continuous(tmp_path / "whole")
    parts = _batch_then_online(tmp_path / "staged", _stage(url))
    parts.run()
    _assert_same_model(parts, whole)
    positions = dict(parts.trainer.positions)
    assert positions.pop(FILES_PARTITION) == (6, 0)
    assert positions == whole.trainer.positions


@pytest.mark.parametrize("polls", [1, 4, 6, 7, 10])
def test_killed_at_any_record_it_goes_on_to_the_same_model(url: str, tmp_path: Path, polls: int) -> None:
    whole = _continuous(tmp_path / "whole")
    killed = _batch_then_online(tmp_path / "staged", _stage(url), polls)
    with pytest.raises(_KillError):
        killed.run()
    # As a checkpoint of the moment would have it: all that was read, and rows of the last batch still wait.
    killed.checkpoints.save(0)
    assert killed.trainer.waiting_rows
    again = _batch_then_online(tmp_path / "staged", _stage(url))
    again.run()
    _assert_same_model(again, whole)


def test_the_end_of_the_files_is_a_base_and_a_checkpoint_and_a_later_run_begins_with_the_topic(
    url: str, tmp_path: Path
) -> None:
    stage = _stage(url)
    parts = Parts(tmp_path, stage.source(RAGGED, {}), batch_stage=stage)
    parts.run()
    newest, *older = parts.store.bases().manifests
    assert newest.rows == len(parts.trainer.table) > 0
    assert [base.rows for base in older] == [0], "before the first row, so that servers can start"
    kept = parts.checkpoint_store.load(1).meta["extra"]["batch_stage"]
    assert stage.finished(parts.trainer.positions)
    later = BatchStage.planned(None, kept, parts.trainer.positions, RAGGED, seed=0)
    assert later is not None
    assert later.online_positions(parts.trainer.positions) == {0: (4, 0), 1: (4, 0)}
    assert later.online_positions({FILES_PARTITION: (6, 0), 0: (6, 3)}) == {0: (6, 3), 1: (4, 0)}


def test_a_base_is_written_when_the_topic_begins(url: str, tmp_path: Path) -> None:
    parts = _batch_then_online(tmp_path, _stage(url))
    seen: list[int] = []
    end = parts.publications.publish

    def publish(now_ms: int, *, base: bool = False) -> None:
        if base:
            seen.append(parts.trainer.counters.rows)
        end(now_ms, base=base)

    parts.publications.publish = publish  # type: ignore[method-assign]
    parts.run()
    assert len(seen) == 1
    assert seen[0] >= DUMPED * 37


def test_the_rows_are_read_as_often_as_there_are_epochs(url: str, tmp_path: Path) -> None:
    stage = _stage(url, epochs=3)
    parts = Parts(tmp_path, stage.source(RAGGED, {}), batch_stage=stage)
    parts.run()
    assert parts.trainer.counters.rows == 3 * DUMPED * 37


def test_a_checkpoint_in_the_midst_of_the_files_is_not_taken_online(url: str) -> None:
    kept = _stage(url).to_json()
    with pytest.raises(ServiceError, match=f"33% through its batch stage on {url}: go on with --batch-from {url}"):
        BatchStage.planned(None, kept, {FILES_PARTITION: (2, 0)}, RAGGED, seed=0)


def test_a_batch_stage_goes_on_as_it_began_also_when_files_were_added(url: str) -> None:
    begun = _stage(url)
    writer = ExampleWriter(url, RAGGED, "topic examples")
    writer.open()
    writer.add(ReadBlock(0, 4, decode_as(ExampleBlock, RECORDS[8].value)))
    writer.commit({0: 5})
    positions = {FILES_PARTITION: (2, 0)}
    stage = BatchStage.planned(BatchOptions(url), begun.to_json(), positions, RAGGED, seed=0)
    assert stage == begun
    source = begun.source(RAGGED, positions)
    source.start()
    blocks = []
    while (records := source.poll(1, 0)) is not None:
        blocks += [record.block for record in records]
    assert sum(len(block) for block in blocks if block is not None) == DUMPED * 37 - 100


@pytest.mark.parametrize("options", [{"epochs": 2}, {"shuffle_rows": 100}])
def test_a_batch_stage_that_is_under_way_does_not_change_its_order(url: str, options: dict[str, int]) -> None:
    kept = _stage(url).to_json()
    with pytest.raises(ServiceError, match="began with --epochs 1 --shuffle-rows 0"):
        BatchStage.planned(BatchOptions(url, **options), kept, {FILES_PARTITION: (2, 0)}, RAGGED, seed=0)


def test_other_files_are_refused_before_a_row_is_read(url: str, tmp_path: Path) -> None:
    kept = _stage(url)
    other = ExampleWriter(str(tmp_path / "other"), RAGGED, "topic examples")
    other.open()
    other.commit()
    source = FileSource(str(tmp_path / "other"), RAGGED, kept.plan)
    with pytest.raises(ExampleFilesError, match="not the files that the batch stage began with"):
        source.start()


def test_a_model_that_is_online_gets_no_batch_stage(url: str) -> None:
    with pytest.raises(ServiceError, match="has learned from the examples topic already"):
        BatchStage.planned(BatchOptions(url), None, {0: (3, 0)}, RAGGED, seed=0)


def test_files_of_another_spec_or_none_are_refused(url: str, tmp_path: Path) -> None:
    other = parse_spec(
        '[spec]\nname = "other"\n[[item]]\nname = "film"\nslot = 16\nkind = "id"\n'
        '[[tasks]]\nname = "watch"\naction = "watch"\nwindow_ms = 1000\n'
    )
    with pytest.raises(ExampleFilesError, match=r"written under feature spec films .* ours is other"):
        BatchStage.planned(BatchOptions(url), None, {}, other, seed=0)
    with pytest.raises(ExampleFilesError, match="there are no example files"):
        BatchStage.planned(BatchOptions(str(tmp_path / "nothing")), None, {}, RAGGED, seed=0)


def test_files_without_rows_are_no_batch_stage(tmp_path: Path) -> None:
    ExampleWriter(str(tmp_path / "empty"), RAGGED, "topic examples").open()
    with pytest.raises(ServiceError, match="no rows have been committed there yet"):
        BatchStage.planned(BatchOptions(str(tmp_path / "empty")), None, {}, RAGGED, seed=0)


def test_what_follows_the_files_is_asked_for_before_they_are_read(url: str) -> None:
    class Gone(ListSource):
        def start(self) -> None:
            raise RuntimeError("the offsets are gone")

    files = _stage(url).source(RAGGED, {})
    source = BatchThenOnline(files, lambda: Gone([]))
    with pytest.raises(RuntimeError, match="the offsets are gone"):
        source.start()
    source.close()


def test_a_stop_in_the_midst_of_the_files_saves_where_it_is_and_writes_no_base(url: str, tmp_path: Path) -> None:
    stage = _stage(url)
    stop = threading.Event()

    class Stopping(_Killed):
        def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord | ReadBlock] | None:
            if not self._polls:
                stop.set()
                return []
            return super().poll(max_items, timeout_s)

    parts = Parts(tmp_path, Stopping(stage.source(RAGGED, {}), 3), batch_stage=stage)
    parts.loop.run(stop)
    assert not parts.loop.ready, "half of the files is no model to serve"
    assert [base.rows for base in parts.store.bases().manifests] == [0]
    assert not stage.finished(parts.trainer.positions)
    again = Parts(tmp_path, stage.source(RAGGED, parts.trainer.positions), batch_stage=stage)
    again.run()
    assert again.trainer.counters.rows == DUMPED * 37
    assert again.loop.ready


def test_a_plan_survives_a_checkpoint(url: str) -> None:
    plan = _stage(url).plan
    assert FilePlan.from_json(plan.to_json()) == plan

"""Files and then the topic teach what one run over all rows teaches, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rillet.connectors import batch_then_online, file_source
from rillet.connectors.batch_then_online import BatchThenOnline
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FILES_PARTITION
from rillet.pipelines.batch_stage import BatchStage
from rillet.pipelines.errors import BatchStageError
from rillet.sync import LogUnavailableError, StoreUnavailableError
from rillet.trainer import ExampleSource, ListSource, Positions, RawRecord, ReadBlock
from tests.connectors.example_sets import as_read, numbered_blocks
from tests.pipelines.dumped import DUMPED, RECORDS, batch_stage
from tests.pipelines.train_parts import Clock, EndlessSource, Parts, failing
from tests.trainer.blocks import RAGGED


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
        found = self._source.poll(1, timeout_s)
        self._polls -= bool(found)
        return found

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """One run over all rows of the topic."""
    parts = Parts(tmp_path_factory.mktemp("whole"), ListSource(RECORDS))
    parts.run()
    return parts


def test_files_and_then_the_topic_teach_what_one_run_over_all_rows_teaches(
    url: str, tmp_path: Path, whole: Parts
) -> None:
    parts = _batch_then_online(tmp_path / "staged", batch_stage(url))
    parts.run()
    _assert_same_model(parts, whole)
    positions = dict(parts.trainer.positions)
    assert positions.pop(FILES_PARTITION) == (6, 0)
    assert positions == whole.trainer.positions


@pytest.mark.parametrize("polls", [1, 4, 6, 7, 10])
def test_killed_at_any_record_it_goes_on_to_the_same_model(url: str, tmp_path: Path, whole: Parts, polls: int) -> None:
    killed = _batch_then_online(tmp_path / "staged", batch_stage(url), polls)
    with pytest.raises(_KillError):
        killed.run()
    # As a checkpoint of the moment would have it: all that was read, and rows of the last batch still wait.
    killed.checkpoints.save()
    assert killed.trainer.waiting_rows
    again = _batch_then_online(tmp_path / "staged", batch_stage(url))
    again.run()
    _assert_same_model(again, whole)


def test_the_end_of_the_files_is_a_base_and_a_checkpoint_and_a_later_run_begins_with_the_topic(
    url: str, tmp_path: Path
) -> None:
    stage = batch_stage(url)
    parts = Parts(tmp_path, stage.source(RAGGED, {}), batch_stage=stage)
    parts.run()
    newest, *older = parts.store.bases().manifests
    assert newest.rows == len(parts.trainer.table) > 0
    assert older == [], "no server starts with a model that has learned from a part of the files"
    kept = parts.checkpoint_store.load(1).meta["extra"]["batch_stage"]
    assert stage.finished(parts.trainer.positions)
    later = BatchStage.planned(None, kept, parts.trainer.positions, RAGGED, topic="examples", seed=0)
    assert later is not None
    assert later.online_positions(parts.trainer.positions) == {0: (4, 0), 1: (4, 0)}
    assert later.online_positions({FILES_PARTITION: (6, 0), 0: (6, 3)}) == {0: (6, 3), 1: (4, 0)}


def test_a_base_is_written_when_the_topic_begins(url: str, tmp_path: Path) -> None:
    parts = _batch_then_online(tmp_path, batch_stage(url))
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
    stage = batch_stage(url, epochs=3)
    parts = Parts(tmp_path, stage.source(RAGGED, {}), batch_stage=stage)
    parts.run()
    assert parts.trainer.counters.rows == 3 * DUMPED * 37


def test_what_follows_the_files_is_asked_for_before_they_are_read(url: str) -> None:
    class Gone(ListSource):
        def start(self) -> None:
            raise RuntimeError("the offsets are gone")

    files = batch_stage(url).source(RAGGED, {})
    source = BatchThenOnline(files, lambda: Gone([]))
    with pytest.raises(RuntimeError, match="the offsets are gone"):
        source.start()
    source.close()


def test_a_stop_in_the_midst_of_the_files_saves_where_it_is_and_writes_no_base(url: str, tmp_path: Path) -> None:
    stage = batch_stage(url)
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
    assert not parts.store.bases().manifests
    assert not stage.finished(parts.trainer.positions)
    again = Parts(tmp_path, stage.source(RAGGED, parts.trainer.positions), batch_stage=stage)
    again.run()
    assert again.trainer.counters.rows == DUMPED * 37
    assert again.loop.ready


class _SlowTopic(ListSource):
    """Takes a while to give its first records."""

    def __init__(self, records: Sequence[RawRecord], positions: Positions, silent: int = 200) -> None:
        super().__init__(records, positions)
        self._silent = silent

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        if self._silent:
            self._silent -= 1
            threading.Event().wait(0.001)
            return []
        return super().poll(max_items, timeout_s)


def test_a_batch_waits_at_the_seam_for_its_other_rows_however_late_the_topic_answers(
    url: str, tmp_path: Path, whole: Parts
) -> None:
    stage = batch_stage(url)
    source = BatchThenOnline(stage.source(RAGGED, {}), lambda: _SlowTopic(RECORDS, stage.online_positions({})))
    # With every look at the clock a batch that is not full has waited long enough.
    parts = Parts(tmp_path / "staged", source, Clock(5_000), batch_stage=stage)
    parts.run()
    assert whole.trainer.counters.partial_batches == parts.trainer.counters.partial_batches
    _assert_same_model(parts, whole)


def test_a_topic_that_holds_nothing_more_does_not_keep_the_last_rows_of_the_files_waiting(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_then_online, "_QUIET_S", 0.01)
    stage, stop = batch_stage(url), threading.Event()
    source = BatchThenOnline(stage.source(RAGGED, {}), lambda: EndlessSource([]))
    parts = Parts(tmp_path, source, Clock(5_000), batch_stage=stage)
    thread = threading.Thread(target=parts.loop.run, args=(stop,), daemon=True)
    thread.start()
    while parts.trainer.counters.rows < DUMPED * 37:
        assert thread.is_alive()
        threading.Event().wait(0.002)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_storage_that_is_away_in_the_midst_is_waited_for(
    url: str, tmp_path: Path, whole: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "_RETRY_S", 0.0)
    stage, calls = batch_stage(url), iter(range(1_000))
    source = stage.source(RAGGED, {})
    read = source._files.read

    def flaky(path: str) -> bytes:
        if next(calls) % 3 == 2:
            raise StoreUnavailableError(f"{path} cannot be read (TimeoutError)")
        return read(path)

    monkeypatch.setattr(source._files, "read", flaky)
    parts = Parts(tmp_path / "staged", source, batch_stage=stage)
    parts.run()
    assert next(calls) > 3
    whole = Parts(tmp_path / "whole", stage.source(RAGGED, {}), batch_stage=stage)
    whole.run()
    _assert_same_model(parts, whole)


class _Away(ListSource):
    """Cannot be reached for a while once the files were read."""

    starts = 0
    error: Exception

    def start(self) -> None:
        cls = type(self)
        cls.starts += 1
        if cls.starts in (2, 3):
            raise cls.error


def test_a_broker_that_is_away_at_the_seam_is_waited_for(
    url: str, tmp_path: Path, whole: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_then_online, "_RETRY_S", 0.0)

    class Broker(_Away):
        error = BrokerUnavailableError("no broker answers")

    stage = batch_stage(url)
    source = BatchThenOnline(stage.source(RAGGED, {}), lambda: Broker(RECORDS, stage.online_positions({})))
    parts = Parts(tmp_path / "staged", source, batch_stage=stage)
    parts.run()
    assert Broker.starts == 4
    _assert_same_model(parts, whole)


def test_a_topic_that_cannot_be_read_after_the_files_ends_the_run_with_what_was_learned_saved(
    url: str, tmp_path: Path
) -> None:
    class Gone(_Away):
        error = TopicError("the offsets are gone")

    stage = batch_stage(url)
    parts = Parts(tmp_path, BatchThenOnline(stage.source(RAGGED, {}), lambda: Gone([])), batch_stage=stage)
    with pytest.raises(TopicError, match="the offsets are gone"):
        parts.run()
    restored = Parts(tmp_path, ListSource([]), batch_stage=stage)
    assert restored.trainer.counters.rows == parts.trainer.counters.rows > DUMPED * 37 - 16
    # A start that learns nothing new does not push older checkpoints out.
    Gone.starts = 1
    again = Parts(
        tmp_path,
        BatchThenOnline(stage.source(RAGGED, restored.trainer.positions), lambda: Gone([])),
        batch_stage=stage,
    )
    versions = again.checkpoint_store.versions()
    with pytest.raises(TopicError):
        again.run()
    assert again.checkpoint_store.versions() == versions


@pytest.mark.parametrize("away", ["checkpoint", "publication", "base"])
def test_a_stage_whose_end_is_not_safe_is_an_error_and_a_second_start_mends_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    stage = batch_stage(url)
    parts = Parts(tmp_path, stage.source(RAGGED, {}), batch_stage=stage)
    with monkeypatch.context() as patch:
        if away == "checkpoint":
            patch.setattr(parts.checkpoint_store, "save", failing(OSError(28, "No space left on device")))
        elif away == "publication":
            patch.setattr(parts.publisher, "publish", failing(LogUnavailableError("away")))
        else:
            patch.setattr(parts.store, "write_base", failing(StoreUnavailableError("away")))
        with pytest.raises(BatchStageError, match=f"the batch stage is over, but the {away}.* failed"):
            parts.run()
    positions = Parts(tmp_path, ListSource([]), batch_stage=stage).trainer.positions
    again = Parts(tmp_path, stage.source(RAGGED, positions), log=parts.log, batch_stage=stage)
    again.run()
    assert again.trainer.counters.rows == DUMPED * 37
    assert again.store.bases().manifests[0].rows == len(again.trainer.table)


def test_a_stop_does_not_wait_for_a_group_of_many_files(tmp_path: Path) -> None:
    writer = ExampleWriter(str(tmp_path / "files"), RAGGED, "topic examples")
    writer.open()
    for record in as_read(numbered_blocks(20, hours=30)):
        writer.add(record)
    writer.commit({0: 10, 1: 10})
    stage = batch_stage(str(tmp_path / "files"))
    source = stage.source(RAGGED, {})
    source.start()
    reads = []
    read = source._files.read
    source._files.read = lambda path: reads.append(path) or read(path)  # type: ignore[method-assign,func-returns-value]
    for number in range(5):
        assert source.poll(1, 0.0) == []
        assert len(reads) == number + 1
    source.close()

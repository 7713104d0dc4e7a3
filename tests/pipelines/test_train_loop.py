"""The trainer's loop on fakes: it publishes, saves and stops, whatever fails around it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.connectors.errors import DeliveryError
from rillet.schemas import (
    BackpressureError,
    DecodeError,
    DeltaBlock,
    ExampleBlock,
    FlushTimeoutError,
    decode,
    decode_as,
    encode,
)
from rillet.sync import StoreUnavailableError
from rillet.trainer import ListSource, TrainerConfig
from tests.pipelines.train_parts import SPARSE_MS, Clock, EndlessSource, Parts, encoded_blocks, failing


def _published_rows(parts: Parts) -> set[int]:
    """Fids of all blocks in the delta log."""
    fids: set[int] = set()
    for record in parts.log.read(0, 10_000, 0.0):
        try:
            block = decode(record.value)
        except DecodeError:
            continue
        if isinstance(block, DeltaBlock):
            fids |= set(block.fids.tolist())
    return fids


def _with_absurd_rows(values: list[bytes], rows: dict[int, int]) -> list[bytes]:
    """The records with one dense value of a record set to what no feature has: record -> row."""
    changed = list(values)
    for record, row in rows.items():
        block = decode_as(ExampleBlock, values[record])
        dense = block.dense.copy()
        dense[row] = 3e38
        changed[record] = encode(replace(block, dense=dense))
    return changed


def test_it_trains_on_everything_then_publishes_and_saves(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource.of_values(encoded_blocks(5)))
    parts.run()
    fids, _ = parts.trainer.table.items()
    assert parts.trainer.counters.rows == 200
    assert _published_rows(parts) == set(fids.tolist())
    assert len(parts.trainer.table.touched) == 0
    assert len(parts.store.bases().manifests) == 1
    meta = parts.checkpoint_store.load(1).meta
    assert meta["positions"] == {"0": [5, 0]}
    assert meta["extra"]["publisher"] == parts.publisher.state()
    assert parts.loop.ready


def test_records_of_another_spec_are_passed_over_and_told_once_not_one_dead_letter_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = encoded_blocks(2)
    others = [encode(replace(decode_as(ExampleBlock, value), spec_hash=0xABC)) for value in encoded_blocks(50)]
    parts = Parts(tmp_path, ListSource.of_values([*others, *ours, b"no block"]))
    parts.run()
    assert parts.trainer.counters.rows == 80
    assert [bad.record.offset for bad in parts.letters.taken] == [52]
    assert parts.counted("other_spec_records_total") == 50
    assert parts.counted("bad_records_total") == 1
    assert parts.checkpoint_store.load(1).meta["positions"] == {"0": [53, 0]}
    warnings = [record.getMessage() for record in caplog.records if "spec 0xabc" in record.getMessage()]
    assert len(warnings) == 2
    assert warnings[0].startswith("partition 0 offset 0 was joined under feature spec 0xabc, ours is ")
    assert warnings[1].startswith("50 records of feature spec 0xabc were passed over")


def test_a_later_run_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    values = encoded_blocks(6)
    first = Parts(tmp_path, ListSource.of_values(values[:4]))
    first.run()
    again = Parts(tmp_path, ListSource.of_values(values, {0: (4, 0)}), log=first.log)
    again.run()
    assert again.trainer.counters.rows == 240
    assert again.publisher.epoch == 2


def test_it_is_not_ready_before_a_publication_was_acknowledged(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource([]))
    assert not parts.loop.ready
    parts.run()
    assert parts.loop.ready


def test_it_is_not_ready_while_its_source_has_been_cut_off_for_seconds(tmp_path: Path) -> None:
    source = ListSource([])
    parts = Parts(tmp_path, source)
    parts.run()
    source.trouble = "127.0.0.1:9092: Connection refused"
    assert parts.loop.ready, "reconnecting is no trouble"
    parts.clock.now_ms += 5_000
    assert not parts.loop.ready
    source.trouble = ""
    assert parts.loop.ready


def test_rows_are_published_at_their_interval_and_checkpoints_at_theirs(tmp_path: Path) -> None:
    config = TrainerConfig(batch_size=16, queue_rows=40, checkpoint_interval_s=SPARSE_MS / 500)
    parts = Parts(tmp_path, ListSource.of_values(encoded_blocks(20)), Clock(SPARSE_MS // 2), config=config)
    parts.run()
    publications, checkpoints = parts.counted("publications_total"), parts.counted("checkpoint_seconds_count")
    assert publications is not None
    assert checkpoints is not None
    assert publications > checkpoints > 2


def test_a_stop_publishes_and_saves_once_more(tmp_path: Path) -> None:
    parts = Parts(tmp_path, EndlessSource.of_values(encoded_blocks(4)))
    stop = threading.Event()
    thread = threading.Thread(target=parts.loop.run, args=(stop,), daemon=True)
    thread.start()
    while parts.trainer.counters.rows < 160:
        assert thread.is_alive()
        threading.Event().wait(0.002)
    assert parts.checkpoint_store.versions() == []
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    parts.loop.close()
    assert parts.checkpoint_store.load(1).meta["positions"] == {"0": [4, 0]}
    assert len(parts.trainer.table.touched) == 0


def test_a_store_that_is_away_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path, ListSource.of_values(encoded_blocks(5)))
    for name in ("bases", "write_base", "write_dense", "newest_version"):
        monkeypatch.setattr(parts.store, name, failing(StoreUnavailableError("away")))
    parts.run()
    assert parts.trainer.counters.rows == 200
    assert (parts.counted("publish_failures_total") or 0) >= 2
    assert len(parts.trainer.table.touched) > 0
    assert not parts.loop.ready
    assert parts.checkpoint_store.versions() == [1]


def test_checkpoints_that_cannot_be_written_do_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path, ListSource.of_values(encoded_blocks(5)))
    monkeypatch.setattr(parts.checkpoint_store, "save", failing(OSError("disk full")))
    parts.run()
    assert parts.trainer.counters.rows == 200
    assert parts.counted("checkpoint_failures_total") == 1


def test_records_that_are_no_blocks_become_dead_letters_and_are_passed(tmp_path: Path) -> None:
    good = encoded_blocks(2)
    parts = Parts(tmp_path, ListSource.of_values([good[0], b"noise", good[1]]))
    parts.run()
    assert [bad.record.offset for bad in parts.letters.taken] == [1]
    assert parts.counted("bad_records_total") == 1
    assert parts.checkpoint_store.load(1).meta["positions"] == {"0": [3, 0]}
    assert parts.letters.closed


def test_absurd_rows_become_dead_letters_with_their_place_and_the_others_are_trained_on(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource.of_values(_with_absurd_rows(encoded_blocks(4), {1: 5, 3: 39})))
    parts.run()
    assert [(bad.record.partition, bad.record.offset, bad.row) for bad in parts.letters.taken] == [
        (0, 1, 5),
        (0, 3, 39),
    ]
    assert parts.trainer.counters.rows == 4 * 40 - 2
    assert parts.counted("rows_total") == 4 * 40 - 2
    assert parts.counted("refused_rows_total", reason="dense") == 2
    assert parts.counted("refused_rows_total", reason="unlearnable") == 0
    assert parts.counted("bad_records_total") == 0
    meta = parts.checkpoint_store.load(1).meta
    assert meta["positions"] == {"0": [4, 0]}
    assert meta["counters"]["refused_rows"] == {"dense": 2, "unlearnable": 0}


def test_refused_rows_are_told_once_between_two_progress_lines_which_count_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(tmp_path, ListSource.of_values(_with_absurd_rows(encoded_blocks(4), {1: 5, 3: 39})))
    with caplog.at_level("INFO"):
        parts.run()
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "it is a dead letter" in line] == [
        "partition 0 offset 1: row 5: dense hour is 3e+38, further from 0 than max_dense 1e+15; it is a dead letter"
    ]
    assert [line for line in told if " rows, " in line and "; refused 2; " in line]


def test_it_is_not_ready_while_most_rows_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rillet.trainer.online._SHARE_ROWS", 500)
    values = encoded_blocks(30)
    for at, value in enumerate(values):
        block = decode_as(ExampleBlock, value)
        values[at] = encode(replace(block, dense=np.full_like(block.dense, 1e16)))
    parts = Parts(tmp_path, ListSource.of_values(values))
    parts.run()
    assert not parts.loop.ready
    assert [record for record in caplog.records if record.levelname == "ERROR" and "not learned from" in record.message]


def test_training_waits_for_room_for_a_refused_row_and_a_stop_meanwhile_saves_nothing(tmp_path: Path) -> None:
    parts = Parts(tmp_path, EndlessSource.of_values(_with_absurd_rows(encoded_blocks(1), {0: 3})))
    parts.letters.full = True
    stop = threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        try:
            parts.loop.run(stop)
        except BackpressureError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert parts.letters.refused.wait(10)
    assert thread.is_alive()
    assert parts.trainer.positions == {}
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert parts.checkpoint_store.versions() == []


def test_letters_that_wait_for_the_broker_prevent_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource.of_values([*encoded_blocks(2), b"noise"]))
    parts.letters.flush_error = FlushTimeoutError("1 letter waits")
    parts.run()
    assert parts.trainer.counters.rows == 80
    assert parts.checkpoint_store.versions() == []
    assert parts.counted("checkpoint_failures_total") == 1
    parts.letters.flush_error = None
    parts.checkpoints.save()
    assert parts.checkpoint_store.versions() == [1]


def test_a_letter_refused_for_good_ends_the_run_without_a_checkpoint(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource.of_values([b"noise"]))
    parts.letters.flush_error = DeliveryError("refused for good")
    with pytest.raises(DeliveryError, match="refused for good"):
        parts.run()
    assert parts.checkpoint_store.versions() == []


def test_a_stop_is_not_held_up_by_a_letter_that_finds_no_room_and_no_position_passes_it(tmp_path: Path) -> None:
    parts = Parts(tmp_path, EndlessSource.of_values([*encoded_blocks(1), b"noise", *encoded_blocks(1)]))
    parts.letters.full = True
    stop = threading.Event()
    thread = threading.Thread(target=parts.loop.run, args=(stop,), daemon=True)
    thread.start()
    assert parts.letters.refused.wait(10)
    while parts.trainer.counters.rows < 32:
        threading.Event().wait(0.002)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    parts.loop.close()
    partition = parts.checkpoint_store.load(1).meta["positions"]["0"]
    assert partition == [0, 32]


def test_what_stops_the_source_stops_the_loop_and_nothing_new_is_not_saved(tmp_path: Path) -> None:
    class Broken(ListSource):
        def poll(self, max_items: int, timeout_s: float) -> None:
            raise RuntimeError("the position is gone")

    parts = Parts(tmp_path, Broken([]))
    with pytest.raises(RuntimeError, match="the position is gone"):
        parts.run()
    assert parts.checkpoint_store.versions() == []


def test_closing_twice_and_before_a_run_is_allowed(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ListSource([]))
    parts.loop.close()
    parts.loop.close()
    assert parts.letters.closed


class _Recorded:
    """A stage that writes down what happens to it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls
        self.start_error: Exception | None = None

    def start(self) -> None:
        self.calls.append(f"start {self.name}")
        if self.start_error is not None:
            raise self.start_error

    def flush(self, timeout_s: float) -> None:
        pass

    def close(self) -> None:
        self.calls.append(f"close {self.name}")


def test_it_starts_its_stages_in_order_and_closes_them_in_reverse(tmp_path: Path) -> None:
    calls: list[str] = []
    parts = Parts(tmp_path, ListSource([]), stages=[_Recorded("log", calls), _Recorded("store", calls)])
    parts.run()
    assert calls == ["start log", "start store", "close store", "close log"]


def test_a_stage_that_does_not_start_closes_all_and_nothing_is_trained(tmp_path: Path) -> None:
    calls: list[str] = []
    stages = [_Recorded("log", calls), _Recorded("store", calls)]
    stages[1].start_error = RuntimeError("no disk")
    parts = Parts(tmp_path, ListSource.of_values(encoded_blocks(1)), stages=stages)
    with pytest.raises(RuntimeError, match="no disk"):
        parts.run()
    assert calls == ["start log", "start store", "close store", "close log"]
    assert parts.letters.closed
    assert parts.trainer.counters.rows == 0

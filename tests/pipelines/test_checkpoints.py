"""Checkpoints are of the moment at which they begin, are written while training goes on, and count once they are whole."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rillet.connectors.errors import DeliveryError
from rillet.embeddings import snapshot
from rillet.pipelines import checkpoints
from rillet.pipelines.checkpoints import Checkpoints
from rillet.schemas import FlushTimeoutError
from rillet.trainer import CheckpointStore, ListSource, TrainerConfig
from tests.pipelines.train_parts import EndlessSource, Parts, encoded_blocks, failing
from tests.trainer.blocks import make_block


class Bench:
    """A trainer with its checkpoints, called as the loop does, and a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.parts = Parts(folder, ListSource([]), config=TrainerConfig(batch_size=16, checkpoint_interval_s=60.0))
        self.store, self.trainer = self.parts.checkpoint_store, self.parts.trainer
        self.now_s = 0.0
        self.checkpoints = Checkpoints(
            self.trainer,
            self.store,
            letters=self.parts.letters,
            extra=lambda: {"moment": self.trainer.counters.batches},
            metrics=self.parts.metrics,
            monotonic_s=lambda: self.now_s,
        )
        self._rng = np.random.default_rng(0)
        self._offset = 0

    def train(self) -> None:
        """A few batches with old and new users and films."""
        self.trainer.offer(0, self._offset, make_block(self._rng, 40, users=200, items=300), 0)
        self._offset += 1
        self.trainer.train(0, more=True)

    def begin(self) -> None:
        """A checkpoint, by its interval."""
        self.now_s += 60.0
        self.checkpoints.save_if_due()
        assert self.writing

    @property
    def writing(self) -> bool:
        return bool(self.trainer.table._snapshots)

    def settle(self) -> None:
        """Goes on until no checkpoint is in hand."""
        while self.checkpoints._writing is not None:
            self.checkpoints.save_if_due()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # A part of the table per turn of the loop, and many parts.
    monkeypatch.setattr("rillet.pipelines.checkpoints._SLICE_S", 0.0)
    monkeypatch.setattr(snapshot, "PART_ROWS", 32)
    found = Bench(tmp_path)
    for _ in range(10):
        found.train()
    return found


def _manifest(store: CheckpointStore, version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store._fs.cat_file(store._path(version, "manifest.json")))
    return {"files": found["files"], "meta": found["meta"]}


def _refuse(error: Exception) -> None:
    raise error


def test_what_is_written_beside_training_is_what_was_there_when_it_began(bench: Bench, tmp_path: Path) -> None:
    at_once = CheckpointStore(str(tmp_path / "at once"), keep=3)
    for version in range(1, 3):
        bench.trainer.save(at_once, {"moment": bench.trainer.counters.batches})
        bench.begin()
        batches = bench.trainer.counters.batches
        while bench.writing:
            bench.train()
            bench.checkpoints.save_if_due()
        assert bench.trainer.counters.batches > batches + 10
        bench.settle()
        assert _manifest(bench.store, version) == _manifest(at_once, version)


def test_a_file_written_in_pieces_is_a_safetensors_file_of_the_state(bench: Bench, tmp_path: Path) -> None:
    version = bench.trainer.save(bench.store)
    data = (tmp_path / "checkpoints" / f"checkpoint-{version:012d}" / "table.safetensors").read_bytes()
    found, expected = safetensors.numpy.load(data), bench.trainer.table.state()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert hashlib.sha256(data).hexdigest() == _manifest(bench.store, version)["files"]["table.safetensors"]["sha256"]


def test_it_is_due_an_interval_after_the_end_of_the_last_however_long_that_took(bench: Bench) -> None:
    bench.begin()
    bench.now_s += 300.0
    bench.settle()
    assert bench.store.versions() == [1]
    bench.now_s += 59.0
    bench.checkpoints.save_if_due()
    assert not bench.writing
    bench.now_s += 1.0
    bench.checkpoints.save_if_due()
    assert bench.writing
    bench.settle()
    assert bench.store.versions() == [1, 2]


def test_a_wall_clock_that_is_set_back_puts_no_checkpoint_off(bench: Bench) -> None:
    bench.parts.clock.now_ms -= 86_400_000
    bench.begin()
    bench.settle()
    assert bench.store.versions() == [1]


def test_one_that_cannot_be_written_to_its_end_leaves_the_one_before_and_the_next_is_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.checkpoints.save()
    bench.train()
    with monkeypatch.context() as patch:
        # The table is on the disk by then.
        patch.setattr(safetensors.numpy, "save", failing(OSError("disk full")))
        bench.begin()
        bench.settle()
    assert bench.parts.counted("checkpoint_failures_total") == 1
    assert "no checkpoint was written: disk full" in caplog.text
    assert bench.store.versions() == [1]
    assert not bench.writing
    bench.begin()
    bench.settle()
    newest = bench.store.load_newest(_refuse)
    assert newest is not None
    assert newest.meta["extra"] == {"moment": bench.trainer.counters.batches}


def test_one_that_is_given_up_does_not_count_and_ends_its_thread(bench: Bench) -> None:
    bench.checkpoints.save()
    bench.begin()
    bench.checkpoints.save_if_due()
    bench.checkpoints.close()
    bench.checkpoints.close()
    assert not bench.writing
    for thread in threading.enumerate():
        if thread.name == "checkpoint-writer":
            thread.join(10)
            assert not thread.is_alive()
    assert bench.store.versions() == [1]


def test_letters_are_waited_for_beside_training_and_no_version_is_written_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, delivered = threading.Event(), threading.Event()

    def flush(timeout_s: float) -> None:
        flushing.set()
        if not delivered.wait(timeout_s):
            raise FlushTimeoutError("1 letter waits")

    monkeypatch.setattr(bench.parts.letters, "flush", flush)
    bench.begin()
    assert flushing.wait(10)
    for _ in range(30):
        bench.train()
        bench.checkpoints.save_if_due()
    assert bench.store.versions() == []
    delivered.set()
    bench.settle()
    assert bench.store.versions() == [1]


def test_a_store_that_hangs_is_told_again_and_again_while_training_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(bench.parts.letters, "flush", lambda timeout_s: answers.wait(10))
    bench.begin()
    for _ in range(6):
        bench.now_s += 30.0
        bench.train()
        bench.checkpoints.save_if_due()
    assert caplog.text.count("a checkpoint is still being written after") == 3
    answers.set()
    bench.settle()
    assert bench.store.versions() == [1]


@pytest.mark.parametrize("in_hand", [True, False])
def test_a_stop_ends_though_the_store_hangs_and_nothing_is_written_beside_what_was_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, in_hand: bool
) -> None:
    monkeypatch.setattr(checkpoints, "_LOOK_S", 0.01)
    monkeypatch.setattr(checkpoints, "_STOP_TIMEOUT_S", 0.05)
    bench.checkpoints.save()
    writes, answers, stop = [], threading.Event(), threading.Event()

    def hang(*_: Any) -> int:
        writes.append(1)
        answers.wait(10)
        raise OSError("away")

    monkeypatch.setattr(bench.store, "save", hang)
    if in_hand:
        bench.begin()
    threading.Timer(0.05, stop.set).start()
    assert not bench.checkpoints.save(stop)
    assert stop.is_set(), "nobody is hurried before"
    assert "a checkpoint is not written 0 s after the stop, and given up" in caplog.text
    assert not bench.checkpoints.save(stop)
    bench.now_s += 60.0
    bench.checkpoints.save_if_due()
    assert len(writes) == 1
    assert bench.parts.counted("checkpoint_failures_total") == 1
    assert not bench.writing
    answers.set()
    assert bench.store.versions() == [1]


def test_a_letter_that_is_lost_for_good_ends_training(bench: Bench) -> None:
    bench.parts.letters.flush_error = DeliveryError("refused for good")
    bench.begin()
    with pytest.raises(DeliveryError, match="refused for good"):
        bench.settle()
    assert bench.store.versions() == []


def test_a_save_at_the_end_comes_after_the_one_in_hand(bench: Bench) -> None:
    bench.begin()
    moment = bench.trainer.counters.batches
    bench.train()
    assert bench.checkpoints.save()
    extras = [bench.store.load(version).meta["extra"] for version in bench.store.versions()]
    assert extras == [{"moment": moment}, {"moment": bench.trainer.counters.batches}]


def test_a_loop_that_fails_gives_the_one_in_hand_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainerConfig(batch_size=16, checkpoint_interval_s=1e-9)
    parts = Parts(tmp_path, EndlessSource.of_values(encoded_blocks(4)), config=config)
    held = threading.Event()
    monkeypatch.setattr(parts.letters, "flush", lambda timeout_s: held.wait(10))
    parts.clock.step_ms = 1
    monkeypatch.setattr(parts.loop._progress, "report_if_due", failing(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        parts.run()
    assert parts.trainer.table._snapshots == []
    held.set()
    assert parts.checkpoint_store.versions() == []

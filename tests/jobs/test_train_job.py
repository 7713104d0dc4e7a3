"""The trainer's service around a failing store and a full queue of dead letters, without broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rillet.connectors.errors import DeliveryError
from rillet.jobs import train
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import BackpressureError, DeadLetter, FlushTimeoutError, dump_spec
from rillet.sync import Base, Manifest, MemoryLog, StoreUnavailableError
from rillet.trainer import CheckpointStore, RawRecord
from tests.trainer.blocks import RAGGED

NOW = 1_700_000_000_000
SPARSE_MS = 10_000


class Source:
    """One record that is no block, then silence."""

    def __init__(self, *_: object, until_latest: bool) -> None:
        self._records = [RawRecord(0, 0, b"noise")]
        self.trouble = ""

    def start(self) -> None:
        pass

    def poll(self, max_records: int, timeout_s: float) -> list[RawRecord]:
        threading.Event().wait(0.001)
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        pass


class Letters:
    """Takes letters, or has no room for any."""

    def __init__(self, *_: object) -> None:
        self.full = False
        self.waiting = False
        self.refused = False
        self.submitted = threading.Event()
        self.taken: list[DeadLetter] = []

    def start(self) -> None:
        pass

    def submit(self, letter: DeadLetter) -> None:
        self.submitted.set()
        if self.full:
            raise BackpressureError("no room for the letter")
        self.taken.append(letter)

    def flush(self, timeout_s: float) -> None:
        if self.refused:
            raise DeliveryError("refused for good")
        if self.waiting:
            raise FlushTimeoutError("1 dead letters wait")

    def close(self) -> None:
        pass


class Job(train.TrainJob):
    """A job on a log in memory; its exported model is empty, since making one takes seconds."""

    _letters: Letters  # type: ignore[assignment]
    _program = b""

    def base_settled(self, now: int) -> None:
        """Waits for the base in the background and settles it."""
        assert self._base is not None
        self._base.exception(10)
        self._settle_base(now)


@pytest.fixture
def config(tmp_path: Path) -> RilletConfig:
    (tmp_path / "films.spec.toml").write_text(dump_spec(RAGGED))
    (tmp_path / "rillet.toml").write_text(
        'spec = "films.spec.toml"\ndata_dir = "var"\n[model]\nname = "films"\ndim = 4\nhidden = [8]\n'
        f"[publisher]\nsparse_interval_s = {SPARSE_MS // 1000}\nbase_interval_s = 3600\n"
    )
    return load_config(tmp_path / "rillet.toml")


@pytest.fixture
def job(config: RilletConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setattr(train, "KafkaDeltaLog", lambda *_: MemoryLog())
    monkeypatch.setattr(train, "KafkaExampleSource", Source)
    monkeypatch.setattr(train, "DeadLetterProducer", Letters)
    job = Job(config, until_latest=False)
    yield job
    job.close()


def _failing(error: Exception) -> object:
    def fail(*_: object) -> object:
        raise error

    return fail


def test_a_base_that_the_store_did_not_take_is_due_again_after_a_sparse_interval(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job._store, "write_base", _failing(StoreUnavailableError("away")))
        job._publish(NOW)
        job.base_settled(NOW)
    assert job.metrics.base_failures._value.get() == 1
    job._publish(NOW + SPARSE_MS - 1)
    assert job._base is None
    job._publish(NOW + SPARSE_MS)
    job.base_settled(NOW + SPARSE_MS)
    assert len(job._store.bases().manifests) == 1
    assert job.metrics.bases._value.get() == 1


def test_any_other_failure_of_a_base_reaches_the_trainer(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job._store, "write_base", _failing(MemoryError("no room for a base")))
    job._publish(NOW)
    with pytest.raises(MemoryError, match="no room for a base"):
        job.base_settled(NOW)


def test_a_base_counts_as_written_when_only_the_deletion_of_old_ones_failed(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(job._store, "collect_garbage", _failing(StoreUnavailableError("read only")))
    job._publish(NOW)
    job.base_settled(NOW)
    metrics = job.metrics
    assert [counter._value.get() for counter in (metrics.bases, metrics.base_failures)] == [1, 0]
    assert metrics.garbage_failures._value.get() == 1
    assert "not deleted" in caplog.text
    assert "not written" not in caplog.text


def test_a_base_still_being_written_at_the_stop_is_waited_for_and_its_failure_raised(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(base: Base) -> Manifest:
        threading.Event().wait(0.2)
        raise MemoryError("no room for a base")

    monkeypatch.setattr(job._store, "write_base", slowly)
    stop = threading.Event()
    stop.set()
    with pytest.raises(MemoryError, match="no room for a base"):
        job.run(stop)


def test_a_stop_is_not_held_up_by_a_letter_that_finds_no_room(job: Job) -> None:
    job._letters.full = True
    stop = threading.Event()
    running = threading.Thread(target=job.run, args=(stop,), daemon=True)
    running.start()
    assert job._letters.submitted.wait(10)
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert job._letters.taken == []


def test_a_letter_that_found_no_room_is_sent_once_there_is_some(job: Job) -> None:
    job._letters.full = True
    stop = threading.Event()
    running = threading.Thread(target=job.run, args=(stop,), daemon=True)
    running.start()
    assert job._letters.submitted.wait(10)
    job._letters.full = False
    deadline = time.monotonic() + 10
    while not job._letters.taken and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    running.join(10)
    (letter,) = job._letters.taken
    assert (letter.topic, letter.partition, letter.offset, letter.value) == ("examples", 0, 0, b"noise")


def test_no_checkpoint_gets_past_a_letter_that_waits(job: Job, config: RilletConfig) -> None:
    checkpoints = CheckpointStore(str(config.checkpoint_dir), keep=1)
    job._letters.waiting = True
    job._checkpoint()
    assert checkpoints.versions() == []
    assert job.metrics.checkpoint_failures._value.get() == 1
    job._letters.waiting = False
    job._checkpoint()
    assert checkpoints.versions() == [1]


def test_a_letter_refused_for_good_ends_the_service(job: Job) -> None:
    job._letters.refused = True
    with pytest.raises(DeliveryError, match="refused for good"):
        job._checkpoint()

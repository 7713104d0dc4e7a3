"""What becomes of bases: written in the background, tried again when the store is away, never lost in silence."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rillet.pipelines import publications
from rillet.schemas import BackpressureError, ClosedError, FlushTimeoutError
from rillet.sync import Base, BaseSnapshot, Manifest, StoreUnavailableError
from rillet.trainer import ListSource
from tests.pipelines.train_parts import NOW, SPARSE_MS, Parts, failing
from tests.trainer.blocks import make_block


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path, ListSource([]))


def _settle(parts: Parts, now_ms: int) -> None:
    """Waits for the base in the background and takes note of it."""
    assert not parts.bases.idle
    parts.publications.settle_base(now_ms, timeout_s=10)


def test_a_base_that_the_store_did_not_take_is_due_again_after_a_sparse_interval(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parts.store, "write_base", failing(StoreUnavailableError("away")))
        parts.publications.publish(NOW)
        _settle(parts, NOW)
    assert parts.counted("base_failures_total") == 1
    parts.publications.publish(NOW + SPARSE_MS - 1)
    assert parts.bases.idle
    parts.publications.publish(NOW + SPARSE_MS)
    _settle(parts, NOW + SPARSE_MS)
    assert len(parts.store.bases().manifests) == 1
    assert parts.counted("bases_total") == 1


def test_any_other_failure_of_a_base_reaches_the_trainer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.store, "write_base", failing(MemoryError("no room for a base")))
    parts.publications.publish(NOW)
    with pytest.raises(MemoryError, match="no room for a base"):
        _settle(parts, NOW)


def test_a_base_counts_as_written_when_only_the_deletion_of_old_ones_failed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parts.store, "collect_garbage", failing(StoreUnavailableError("read only")))
    parts.publications.publish(NOW)
    _settle(parts, NOW)
    assert (parts.counted("bases_total"), parts.counted("base_failures_total")) == (1, 0)
    assert parts.counted("garbage_failures_total") == 1
    assert "not deleted" in caplog.text
    assert "not written" not in caplog.text


def test_a_base_still_being_written_at_the_end_is_waited_for_and_its_failure_raised(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(base: Base) -> Manifest:
        threading.Event().wait(0.1)
        raise MemoryError("no room for a base")

    monkeypatch.setattr(parts.store, "write_base", slowly)
    with pytest.raises(MemoryError, match="no room for a base"):
        parts.run()


def test_one_base_is_written_at_a_time_and_training_does_not_wait_for_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    write = parts.store.write_base

    def hold(base: Base) -> Manifest:
        held.wait(10)
        return write(base)

    monkeypatch.setattr(parts.store, "write_base", hold)
    parts.publications.publish(NOW)
    parts.publications.publish(NOW + 2 * 3600 * 1000)
    base = parts.publisher.begin_base(parts.trainer.table, now_ms=NOW, dense={}, program=b"", spec_toml="")
    with pytest.raises(BackpressureError):
        parts.bases.submit(base)
    with pytest.raises(FlushTimeoutError):
        parts.bases.flush(0.0)
    held.set()
    _settle(parts, NOW)
    assert parts.counted("bases_total") == 1
    parts.bases.close()
    parts.bases.close()
    with pytest.raises(ClosedError):
        parts.bases.submit(base)


def _base(parts: Parts) -> BaseSnapshot:
    return parts.publisher.begin_base(parts.trainer.table, now_ms=NOW, dense={}, program=b"", spec_toml="")


def test_a_flush_tells_of_a_failed_write_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.store, "write_base", failing(StoreUnavailableError("away")))
    parts.bases.submit(_base(parts))
    with pytest.raises(StoreUnavailableError, match="away"):
        parts.bases.flush(10)
    parts.bases.flush(0)
    assert parts.bases.idle
    assert parts.bases.result() is None


def test_a_base_that_hangs_is_given_up_and_counted_at_the_close_and_keeps_no_process_alive(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(base: Base) -> None:
        hanging.set()
        release.wait(10)

    monkeypatch.setattr(parts.store, "write_base", hang)
    parts.bases.submit(_base(parts))
    while not hanging.wait(0.01):
        parts.bases.hand_over(1.0)
    started = time.monotonic()
    parts.bases.close()
    assert time.monotonic() - started < 1.0
    assert parts.counted("base_failures_total") == 1
    assert "was not written" in caplog.text
    assert [thread.daemon for thread in threading.enumerate() if thread.name.startswith("base-writer")] == [True]
    release.set()


@pytest.mark.parametrize("stopped", [True, False])
def test_a_stop_does_not_wait_for_a_base_that_hangs_and_an_end_waits_longer(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stopped: bool
) -> None:
    """Whoever stops a service kills it after some seconds, and then it has not ended cleanly."""
    release, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(parts.store, "write_base", lambda base: release.wait(10))
    for name, value in {"_LOOK_S": 0.01, "_STOP_TIMEOUT_S": 0.02, "_BASE_TIMEOUT_S": 0.1}.items():
        monkeypatch.setattr(publications, name, value)
    parts.bases.submit(_base(parts))
    if stopped:
        stop.set()
        assert not parts.publications.finish(NOW, stop)
        assert "it is given up, the next start writes another" in caplog.text
    else:
        with pytest.raises(FlushTimeoutError):
            parts.publications.finish(NOW, stop)
    release.set()


def test_a_young_model_brings_its_dense_weights_with_every_publication_and_an_old_one_at_their_interval(
    parts: Parts,
) -> None:
    trainer, rng = parts.trainer, np.random.default_rng(0)
    brought = []
    for number in range(12):
        trainer.offer(0, number, make_block(rng, 32), NOW)
        trainer.train(NOW, more=True)
        version = parts.publisher.version
        parts.publications.publish(NOW + number * 1_000)
        brought.append(parts.publisher.version > version)
    assert all(brought[:10])
    assert not all(brought[10:])

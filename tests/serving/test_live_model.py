"""The served model follows a publisher: ready when caught up, new rows and weights between batches, bad ones refused."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import Cross, Freshness, make_fids
from rillet.schemas.arrays import Float32s
from rillet.serving.config import ServingConfig
from rillet.serving.engine import Engine
from rillet.serving.live_model import LiveModel
from rillet.serving.metrics import ServingMetrics
from rillet.serving.program import DenseProgram
from rillet.sync import (
    MemoryLog,
    ModelStore,
    Publisher,
    PublisherConfig,
    ReplicaConfig,
    StoreUnavailableError,
    TableShard,
)
from tests.serving.helpers import MODEL, WIDTH, demo_spec, exported_linear
from tests.serving.loop import NOW_MS, Clock, Following, Loop, until


@pytest.fixture(scope="module")
def program_bytes() -> bytes:
    return exported_linear()


@pytest.fixture
def loop(tmp_path: Path, program_bytes: bytes) -> Loop:
    spec = demo_spec()
    delta_log, store = MemoryLog(), ModelStore(str(tmp_path), MODEL)
    metrics, clock = ServingMetrics(CollectorRegistry()), Clock()
    return Loop(
        table=EmbeddingTable(
            WIDTH, TableConfig(optimizer="none", initial_capacity=4096, chunk_rows=4096), track_touched=True
        ),
        publisher=Publisher(
            delta_log,
            store,
            TableShard(MODEL, spec.model_hash),
            writer="test",
            config=PublisherConfig(max_block_rows=100),
        ),
        model=LiveModel(
            store,
            delta_log,
            spec,
            config=ServingConfig(poll_interval_ms=5, base_poll_interval_ms=5),
            replica_config=ReplicaConfig(),
            metrics=metrics,
            now_ms=lambda: clock.now_ms,
        ),
        metrics=metrics,
        dense={"bias": np.zeros(2, np.float32)},
        program=program_bytes,
        log=delta_log,
        store=store,
        clock=clock,
    )


def test_it_waits_for_the_first_base_and_is_ready_once_the_log_is_replayed(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Following(loop.model) as following:
        until(lambda: "waiting for the trainer to write a first base" in caplog.text)
        assert not loop.model.ready
        assert not loop.model.apply(0.002)
        loop.write(1, 0.5)
        loop.base()
        loop.write(2, 0.25)
        loop.publish()
        following.apply_until(lambda: loop.model.ready and loop.weight(2) == 0.25)
        assert loop.weight(1) == 0.5
    assert "ready: model films" in caplog.text
    assert loop.counted("rillet_replica_ready") == 1
    assert loop.counted("rillet_replica_rows") == 2
    assert loop.counted("rillet_replica_newest_event_timestamp_seconds") == NOW_MS / 1000 - 7


def test_an_event_of_tomorrow_counts_as_the_newest_only_until_the_next_update(loop: Loop) -> None:
    def newest() -> float | None:
        return loop.counted("rillet_replica_newest_event_timestamp_seconds")

    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        for at, newest_ms in ((1, NOW_MS + 86_400_000), (2, NOW_MS - 7000)):
            loop.write(at, 0.5)
            loop.publisher.publish(loop.table, now_ms=NOW_MS, freshness=Freshness(newest_ms, NOW_MS))
            following.apply_until(lambda at=at: loop.weight(at) == 0.5)  # type: ignore[misc]
            assert newest() == newest_ms / 1000


def test_an_action_of_a_clock_ahead_of_ours_took_no_time_rather_than_less(loop: Loop) -> None:
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        loop.write(1, 0.5)
        loop.publish(ingest=(NOW_MS + 30_000,))
        following.apply_until(lambda: loop.metrics.freshness_seconds.count == 1)
    assert loop.counted("rillet_freshness_seconds_sum") == 0


def test_it_is_told_when_the_log_last_answered(loop: Loop) -> None:
    assert loop.counted("rillet_replica_reached_timestamp_seconds") is None
    loop.base()
    with Following(loop.model):
        until(lambda: loop.counted("rillet_replica_reached_timestamp_seconds") == NOW_MS / 1000)


def test_a_base_with_other_crosses_is_not_served_and_the_log_says_so(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    crossed = replace(demo_spec(), crosses=(Cross("user_film", 40, ("user", "film"), 1),))
    model = LiveModel(
        loop.store,
        loop.log,
        crossed,
        config=ServingConfig(poll_interval_ms=5, base_poll_interval_ms=5),
        replica_config=ReplicaConfig(),
        metrics=ServingMetrics(CollectorRegistry()),
    )
    loop.base()
    said = (
        rf"WARNING.*not ready.*\(base-0+1\) of feature spec, crosses and transforms {demo_spec().model_hash:#x}, ours are"
        rf" {crossed.model_hash:#x}: start `rillet train` on our spec"
    )
    with caplog.at_level(logging.INFO), Following(model):
        until(lambda: re.search(said, caplog.text) is not None)
        assert not model.ready


def test_new_rows_and_weights_are_served_and_their_freshness_observed(loop: Loop) -> None:
    loop.write(1, 0.5)
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        version = loop.model.version
        loop.write(1, 0.75)
        loop.publish({"bias": np.array([1.0, 2.0], np.float32)}, (NOW_MS - 1500, -1, NOW_MS - 3000))
        following.apply_until(lambda: loop.weight(1) == 0.75 and loop.model.version > version)
        logits = loop.model.program(np.zeros((1, 8, WIDTH), np.float32), np.zeros((1, 0), np.float32))
    np.testing.assert_array_equal(logits, [[1, 2]])
    assert loop.metrics.freshness_seconds.count == 2
    assert loop.counted("rillet_freshness_seconds_sum") == pytest.approx(4.5)


def test_a_slice_ends_within_its_budget_and_the_rest_follows(loop: Loop) -> None:
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        films = np.arange(1, 4001)
        loop.table.upsert(make_fids(16, films), np.ones((4000, WIDTH), np.float32))
        loop.publish()
        until(lambda: (loop.counted("rillet_replica_queued_rows") or 0) == 4000)
        slices = 1
        while loop.model.apply(1e-9):
            slices += 1
        assert slices >= 4
        assert loop.counted("rillet_replica_queued_rows") == 0
        assert len(loop.model.table) == 4000


def test_weights_that_do_not_fit_are_counted_and_the_old_ones_stay(loop: Loop) -> None:
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        version = loop.model.version
        loop.publish({"bias": np.zeros(3, np.float32)})
        following.apply_until(lambda: loop.counted("rillet_serving_refused_weights_total") == 1)
        assert loop.model.version == version
        assert loop.model.ready


def test_a_base_whose_program_does_not_load_ends_the_follower_with_the_reason(loop: Loop) -> None:
    loop.program = b"no program"
    loop.base()
    with Following(loop.model) as following:
        until(lambda: following.failure is not None)
        assert "does not load" in str(following.failure)
        assert not loop.model.ready


def test_a_failing_slice_is_counted_and_does_not_reach_the_batcher(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)

        def broken(*_: object) -> None:
            raise MemoryError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(loop.model.table, "upsert", broken)
            loop.write(1, 0.5)
            loop.publish()
            following.apply_until(lambda: bool(loop.counted("rillet_serving_apply_failures_total")))
        following.apply_until(lambda: loop.weight(1) == 0.5)


def test_rows_are_served_while_the_dense_blob_cannot_be_read_and_the_blob_once_it_can(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the engine's own thread: what nobody wakes it for is not applied."""
    engine = Engine(demo_spec(), loop.model, ServingConfig(), loop.metrics)
    tries = 0

    def unreadable(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise StoreUnavailableError("no store")

    engine.start()
    try:
        with Following(loop.model, engine.wake):
            loop.base()
            until(lambda: loop.model.ready)
            version = loop.model.version
            with monkeypatch.context() as patch:
                patch.setattr(loop.store, "load_dense", unreadable)
                for rows, weight in enumerate((0.25, 0.5, 0.75), start=1):
                    loop.write(1, weight)
                    loop.publish({"bias": np.ones(2, np.float32)} if rows == 1 else None)
                    # Not the weight itself: a table is not to be read while the engine's thread writes it.
                    until(lambda rows=rows: loop.counted("rillet_replica_upserted_rows_total") == rows)  # type: ignore[misc]
                    assert loop.weight(1) == weight
                assert tries == 1  # the log was read on without waiting for the store each time
                assert loop.model.version == version
            loop.clock.now_ms += 10_000
            until(lambda: loop.model.version > version)
    finally:
        engine.close()


def test_a_later_base_is_loaded_by_the_reading_thread_and_only_taken_over_by_the_batchers(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    class Watched(DenseProgram):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            threads.append(threading.get_ident())
            super().__init__(*args, **kwargs)

        def load_weights(self, weights: Mapping[str, Float32s]) -> None:
            threads.append(threading.get_ident())
            super().load_weights(weights)

    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        monkeypatch.setattr("rillet.serving.live_model.DenseProgram", Watched)
        old = loop.model.program
        loop.lose(monkeypatch, lambda: loop.dense.update(bias=np.array([3.0, 4.0], np.float32)))
        following.apply_until(lambda: loop.weight(9) == 1.0)
        assert loop.model.program is not old
        np.testing.assert_array_equal(_logits(loop), [[3, 4]])
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("weights", [np.array([0.0, np.nan], np.float32), np.zeros(3, np.float32)])
def test_a_later_base_that_does_not_fit_changes_nothing_and_the_next_one_is_taken(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, weights: np.ndarray
) -> None:
    monkeypatch.setattr("rillet.serving.live_model._RETRY_S", 0.01)
    loop.base()
    with Following(loop.model) as following:
        following.apply_until(lambda: loop.model.ready)
        loop.publish({"bias": np.array([1.0, 2.0], np.float32)})
        following.apply_until(lambda: bool((_logits(loop) == [[1, 2]]).all()))
        version = loop.model.version
        loop.lose(monkeypatch, lambda: loop.dense.update(bias=weights))
        following.apply_until(lambda: loop.counted("rillet_serving_refused_weights_total") == 1)
        np.testing.assert_array_equal(_logits(loop), [[1, 2]])
        assert (loop.model.version, loop.weight(9)) == (version, 0)
        loop.dense["bias"] = np.array([5.0, 6.0], np.float32)
        loop.base()
        loop.clock.now_ms += 3_600_000
        following.apply_until(lambda: loop.weight(9) == 1.0)
        np.testing.assert_array_equal(_logits(loop), [[5, 6]])
        assert loop.model.version > version


def _logits(loop: Loop) -> np.ndarray:
    return loop.model.program(np.zeros((1, 8, WIDTH), np.float32), np.zeros((1, 0), np.float32))

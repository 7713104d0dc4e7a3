"""A replica follows, refuses, notices what is missing and mends it, a bounded slice at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, Freshness, encode
from rillet.sync import (
    Base,
    BaseNotFoundError,
    Incident,
    LogUnavailableError,
    OtherSpecBaseError,
    Publisher,
    ReplicaConfig,
)
from tests.sync.conftest import REPLICA_CONFIG, Bench
from tests.sync.fakes import FIDS, TABLE_SHARD, damage, same_rows
from tests.sync.log_changes import append, change, newest_block


class TestFollowing:
    def test_base_and_log_make_the_trainers_rows(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        change(table, 3, 100)
        table.delete(np.array([7]))
        bench.publish(publisher, table)
        replica = bench.replica()
        assert not replica.ready
        base = replica.load()
        assert not replica.ready
        replica.catch_up(0)

        assert replica.ready
        assert same_rows(replica.table, table)
        assert (base.program, base.spec_toml, len(base.fids)) == (b"program", "spec = 1", 0)
        assert (replica.rows, replica.position, replica.lag_records) == (len(FIDS), bench.log.end(), 0)
        assert (replica.epoch, replica.sequence) == (1, len(bench.records()) - 1)
        assert (replica.applied.rows, replica.applied.tombstones, replica.applied.bases) == (2, 1, 1)

    def test_ready_only_once_at_the_head_of_its_start_and_then_for_good(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        change(table, *range(1, 21))
        bench.publish(publisher, table)
        replica = bench.replica()
        replica.load()
        replica.poll(0)
        while replica.queued_rows:
            assert not replica.ready
            replica.apply_slice()
        replica.apply_slice()
        assert replica.ready
        change(table, 4)
        bench.publish(publisher, table)
        replica.poll(0)
        assert replica.lag_records == 1
        assert replica.ready

    def test_a_slice_is_bounded_and_each_row_whole(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, *range(1, 18), value=5.0)
        table.delete(np.array([20, 21, 22]))
        bench.publish(publisher, table)
        while replica.poll(0):
            pass
        before, sizes = replica.table.values(FIDS), []
        while rows := replica.apply_slice():
            sizes.append(rows)
            values = replica.table.values(FIDS)
            old = (values == before).all(axis=1)
            new = (values == 5.0).all(axis=1) | (values == 0.0).all(axis=1)
            assert (old | new).all()
            assert new.sum() == sum(sizes)
        assert sizes == [4, 4, 2, 4, 3, 3]
        assert replica.queued_rows == 0
        assert same_rows(replica.table, table)

    def test_many_empty_blocks_do_not_make_a_long_slice(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica(config=ReplicaConfig(slice_rows=128))
        replica.load()
        for _ in range(10):
            bench.publish(publisher, table)
        while replica.poll(0):
            pass
        replica.apply_slice()
        assert replica.applied.blocks == 2

    def test_a_block_is_reported_once_all_its_rows_are_in(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        seen: list[tuple[int, bool]] = []
        replica = bench.replica(on_applied=lambda block: seen.append((block.sequence, same_rows(replica.table, table))))
        replica.load()
        change(table, *range(1, 11))
        bench.publish(publisher, table)
        while replica.poll(0):
            pass
        replica.apply_slice()
        assert seen == []
        while replica.apply_slice():
            pass
        assert seen == [(replica.sequence, True)]

    def test_blocks_from_before_the_start_are_not_reported_as_fresh(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        change(table, 3)
        bench.publish(publisher, table)
        seen: list[DeltaBlock] = []
        replica = bench.replica(on_applied=seen.append)
        replica.load()
        replica.catch_up(0)
        assert replica.applied.blocks == 1
        assert seen == []

    def test_a_callback_that_raises_does_not_repeat_or_lose_a_block(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        def failing(block: DeltaBlock) -> None:
            raise RuntimeError("callback")

        replica = bench.replica(on_applied=failing)
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        replica.poll(0)
        with pytest.raises(RuntimeError, match="callback"):
            replica.apply_slice()
        replica.apply_slice()
        assert same_rows(replica.table, table)
        assert (replica.applied.blocks, replica.queued_rows) == (1, 0)

    def test_fetching_stops_while_too_much_is_queued(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica(config=ReplicaConfig(max_queued_rows=15, fetch_records=1))
        replica.load()
        change(table, *range(1, 26))
        bench.publish(publisher, table)
        for _ in range(10):
            replica.poll(0)
        assert 15 <= replica.queued_rows <= 20
        replica.catch_up(0)
        assert same_rows(replica.table, table)

    def test_the_log_being_away_is_told_and_harms_nothing(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = bench.replica()
        replica.load()

        def away() -> int:
            raise LogUnavailableError("away")

        with monkeypatch.context() as patch:
            patch.setattr(bench.log, "end", away)
            with pytest.raises(LogUnavailableError):
                replica.poll(0)
        change(table, 3)
        bench.publish(publisher, table)
        replica.catch_up(0)
        assert same_rows(replica.table, table)


class TestDense:
    def test_weights_are_loaded_checked_and_handed_over(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        assert (replica.version, replica.dense["w"].tolist()) == (1, [0.0, 0.0])
        weights = {"w": np.full(2, 9, np.float32)}
        publisher.publish(table, now_ms=0, freshness=Freshness(), dense=weights)
        replica.catch_up(0)
        assert (replica.version, replica.dense["w"].tolist()) == (2, [9.0, 9.0])

    def test_only_the_newest_of_many_versions_is_loaded(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica(config=ReplicaConfig(fetch_records=2))
        replica.load()
        for number in range(5):
            publisher.publish(table, now_ms=0, freshness=Freshness(), dense={"w": np.full(2, number, np.float32)})
        bench.store.collect_garbage(keep_bases=1, keep_dense=1)
        replica.catch_up(0)
        assert replica.dense["w"].tolist() == [4.0, 4.0]
        assert (replica.applied.dense_versions, bench.incidents) == (1, [])

    def test_a_damaged_blob_is_refused_and_the_old_weights_stay(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        weights = {"w": np.full(2, 9, np.float32)}
        publisher.publish(table, now_ms=0, freshness=Freshness(), dense=weights)
        bench.store.write_dense(2, {"w": np.full(2, 8, np.float32)})
        replica.catch_up(0)
        assert bench.kinds() == [Incident.BAD_DENSE]
        assert (replica.version, replica.dense["w"].tolist()) == (1, [0.0, 0.0])


class TestTelling:
    """The listener is told of a base with what it prepared, and of newer weights of the same base apart."""

    def test_a_base_comes_with_what_was_prepared_and_weights_without(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        assert bench.listener.told == ["base 1: prepared 1"]
        publisher.publish(table, now_ms=0, freshness=Freshness(), dense={"w": np.full(2, 9, np.float32)})
        replica.catch_up(0)
        assert bench.listener.told[1:] == ["dense 2: [9.0, 9.0]"]
        change(table, 3)
        bench.publish(publisher, table)
        damage(bench.log, bench.log.end() - 1)
        replica.catch_up(0)
        bench.write_base(publisher, table)
        replica.poll(10_000)
        assert len(bench.listener.told) == 2  # read, not applied
        replica.apply_slice()
        assert bench.listener.told[2:] == ["base 3: prepared 3"]
        assert (replica.applied.bases, replica.applied.dense_versions) == (2, 1)

    def test_a_base_that_cannot_be_prepared_is_not_taken(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = bench.replica()

        def failing(base: Base) -> str:
            raise RuntimeError("does not fit")

        with monkeypatch.context() as patch:
            patch.setattr(bench.listener, "prepare", failing)
            with pytest.raises(RuntimeError, match="does not fit"):
                replica.load()
            assert (replica.ready, bench.listener.told) == (False, [])
        replica.load()
        assert bench.listener.told == ["base 1: prepared 1"]


class TestRefusing:
    """What is refused changes no row, is counted and reported with its position."""

    @pytest.mark.parametrize(
        ("incident", "changes"),
        [
            (Incident.STALE_EPOCH, {"epoch": 0}),
            (Incident.DUPLICATE, {"sequence": 1}),
            (Incident.OTHER_MODEL, {"model": "other"}),
            (Incident.OTHER_TABLE, {"table": "other"}),
            (Incident.OTHER_TABLE, {"shard": 1}),
            (Incident.OTHER_SPEC, {"model_hash": 1}),
            (Incident.BAD_BLOCK, {"crc32c": 1}),
            (Incident.BAD_BLOCK, {"dim": 1}),
        ],
    )
    def test_a_block_that_is_not_for_it(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, incident: Incident, changes: dict[str, object]
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        good = newest_block(bench)
        replica.catch_up(0)
        rows = replica.table.values(FIDS)
        block = replace(good, sequence=good.sequence + 1, rows=good.rows + 1)
        append(bench, encode(replace(block, **{"crc32c": 0, **changes})))  # type: ignore[arg-type]
        replica.catch_up(0)

        assert [(kind, position) for kind, position, _ in bench.incidents] == [(incident, bench.log.end() - 1)]
        assert replica.incidents == {incident: 1}
        assert np.array_equal(replica.table.values(FIDS), rows)
        assert replica.position == bench.log.end()
        assert replica.degraded == (incident in (Incident.BAD_BLOCK, Incident.OTHER_SPEC))

    def test_bytes_that_are_no_record(self, bench: Bench, publisher: Publisher) -> None:
        replica = bench.replica()
        replica.load()
        append(bench, b"rubbish")
        replica.catch_up(0)
        assert bench.kinds() == [Incident.UNDECODABLE]
        assert replica.position == bench.log.end()

    def test_a_base_of_another_spec_is_not_loaded(self, bench: Bench, publisher: Publisher) -> None:
        with pytest.raises(OtherSpecBaseError, match="feature spec, crosses and transforms 0x5ec, ours are 0x1"):
            bench.replica(table_shard=replace(TABLE_SHARD, model_hash=1)).load()

    def test_nothing_works_before_load(self, bench: Bench) -> None:
        replica = bench.replica()
        assert (replica.ready, replica.rows, replica.lag_records) == (False, 0, 0)
        for call in (lambda: replica.poll(0), lambda: replica.table, lambda: replica.base):
            with pytest.raises(BaseNotFoundError, match="call load first"):
                call()
        with pytest.raises(BaseNotFoundError, match="no usable base"):
            replica.load()


def test_default_slices_are_those_of_the_configuration(
    bench: Bench, publisher: Publisher, table: EmbeddingTable
) -> None:
    replica = bench.replica(config=replace(REPLICA_CONFIG, slice_rows=6))
    replica.load()
    change(table, *range(1, 11))
    bench.publish(publisher, table)
    replica.poll(0)
    assert (replica.apply_slice(), replica.apply_slice(2), replica.apply_slice()) == (6, 2, 2)

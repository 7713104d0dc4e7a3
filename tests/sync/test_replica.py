"""A replica follows, refuses, notices what is missing and mends it, a bounded slice at a time."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, Freshness, decode_as, encode
from rillet.sync import (
    Base,
    BaseNotFoundError,
    Incident,
    LogUnavailableError,
    MemoryLog,
    OtherSpecBaseError,
    Publisher,
    ReplicaConfig,
)
from tests.sync.conftest import REPLICA_CONFIG, Bench
from tests.sync.fakes import DIM, TABLE_SHARD, damage, same_rows, trainer_table

FIDS = np.arange(1, 26, dtype=np.int64)


@pytest.fixture
def table() -> EmbeddingTable:
    return trainer_table(FIDS)


@pytest.fixture
def publisher(bench: Bench, table: EmbeddingTable) -> Publisher:
    """A publisher that has written one base of ``table``."""
    publisher = bench.publisher()
    bench.write_base(publisher, table)
    return publisher


def change(table: EmbeddingTable, *fids: int, value: float = 1.0) -> None:
    table.upsert(np.array(fids, np.int64), np.full((len(fids), DIM), value, np.float32))


def remove(log: MemoryLog, position: int) -> None:
    """A record is lost from the log: the positions of the others stay."""
    del log._records[position - log.begin()]
    log.read = lambda at, count, timeout_s: [r for r in log._records if r.position >= at][:count]  # type: ignore[method-assign]


def append(bench: Bench, value: bytes) -> None:
    bench.log.append(b"k", value)
    bench.log.commit(0)


def newest_block(bench: Bench) -> DeltaBlock:
    return decode_as(DeltaBlock, bench.log._records[-1].value)


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


class TestMending:
    """Missing rows are noticed, and made good by the log or by a base."""

    def test_a_record_damaged_on_its_way_is_read_again(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, *range(1, 21))
        bench.publish(publisher, table)
        whole, reads = bench.log.read, []

        def damaged_once(position: int, count: int, timeout_s: float) -> list[object]:
            records = whole(position, count, timeout_s)
            reads.append(position)
            if len(reads) == 1:
                return [records[0], replace(records[1], value=records[1].value[:-3]), *records[2:]]
            return list(records)

        monkeypatch.setattr(bench.log, "read", damaged_once)
        replica.catch_up(0)
        assert same_rows(replica.table, table)
        assert (bench.incidents, replica.degraded) == ([], False)

    def test_records_left_out_on_their_way_are_read_again(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, *range(1, 26))
        bench.publish(publisher, table)
        whole, reads = bench.log.read, []

        def one_left_out(position: int, count: int, timeout_s: float) -> list[object]:
            records = whole(position, count, timeout_s)
            reads.append(position)
            return list(records[1:] if len(reads) == 1 else records)

        monkeypatch.setattr(bench.log, "read", one_left_out)
        replica.catch_up(0)
        assert same_rows(replica.table, table)
        assert (bench.incidents, replica.degraded) == ([], False)

    @pytest.mark.parametrize("harm", [damage, remove])
    def test_what_the_log_lost_comes_with_the_next_base(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable, harm: object
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        harm(bench.log, bench.log.end() - 1)  # type: ignore[operator]
        change(table, 4)
        bench.publish(publisher, table)
        replica.catch_up(0)
        # What came after the loss is applied, and the loss is known.
        assert replica.table.values(np.array([4])).tolist() == [[1.0] * DIM]
        assert not same_rows(replica.table, table)
        assert replica.degraded
        before = replica.table

        bench.write_base(publisher, table)
        replica.catch_up(500)
        assert replica.degraded  # the store is looked into every second only
        replica.catch_up(1000)
        assert same_rows(replica.table, table)
        assert not replica.degraded
        assert replica.table is not before
        assert replica.applied.bases == 2

    def test_serving_goes_on_from_the_old_table_until_the_new_one_is_whole(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        damage(bench.log, bench.log.end() - 1)
        replica.catch_up(0)
        bench.write_base(publisher, table)
        old = replica.table
        replica.poll(10_000)
        assert replica.table is old
        replica.apply_slice()
        assert replica.table is not old

    def test_going_back_to_a_base_the_log_counts_again_from_there(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        """Blocks of epoch 1 after the base are good, though the replica had come to epoch 2."""
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        damage(bench.log, bench.log.end() - 1)
        bench.write_base(publisher, table)
        change(table, 5)
        bench.publish(publisher, table)
        second = bench.publisher(writer="second", state=publisher.state())
        bench.publish(second, table)
        # The base is not found at first.
        bases, bench.store.bases = bench.store.bases, lambda: replace(bases(), manifests=())  # type: ignore[method-assign]
        replica.catch_up(0)
        assert (replica.epoch, replica.degraded) == (2, True)
        bench.store.bases = bases  # type: ignore[method-assign]
        replica.catch_up(1000)

        assert same_rows(replica.table, table)
        assert Incident.STALE_EPOCH not in bench.kinds()

    def test_blocks_replayed_after_a_reload_are_not_fresh_again(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        seen: list[int] = []
        replica = bench.replica(on_applied=lambda block: seen.append(block.sequence))
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        damage(bench.log, bench.log.end() - 1)
        bench.write_base(publisher, table)
        change(table, 4)
        bench.publish(publisher, table)
        replica.catch_up(0)
        replica.catch_up(10_000)
        assert len(seen) == len(set(seen)) == 1

    def test_a_log_truncated_beyond_it_is_answered_by_the_newest_base(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        for fid in (3, 4, 5):
            change(table, fid)
            bench.publish(publisher, table)
        manifest = bench.write_base(publisher, table)
        change(table, 6)
        bench.publish(publisher, table)
        bench.log.truncate(manifest.next_offset)
        replica.catch_up(0)
        assert same_rows(replica.table, table)
        assert bench.kinds() == [Incident.TRUNCATED]

    def test_without_a_base_in_the_log_it_serves_on_and_says_so(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        bench.log.truncate(bench.log.end())
        rows = replica.table.items()[1]
        for now_ms in (0, 100, 1000):
            with pytest.raises(BaseNotFoundError):
                replica.poll(now_ms)
        assert replica.degraded
        assert np.array_equal(replica.table.items()[1], rows)
        bench.write_base(publisher, table)
        replica.catch_up(2000)
        assert same_rows(replica.table, table)
        assert (bench.kinds(), replica.degraded) == ([Incident.TRUNCATED], False)

    def test_a_recreated_log_is_followed_from_the_next_base(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        bench.log._records.clear()
        bench.log._begin = bench.log._end = 0
        with pytest.raises(BaseNotFoundError):
            replica.poll(0)
        change(table, 3)
        with pytest.raises(LogUnavailableError, match="ends at 1"):
            bench.publish(publisher, table)
        bench.publish(publisher, table)
        bench.write_base(publisher, table)
        change(table, 4)
        bench.publish(publisher, table)
        replica.catch_up(1000)
        assert same_rows(replica.table, table)

    def test_it_stays_ready_and_keeps_newer_weights_when_an_older_base_replaces_the_table(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        change(table, 3)
        bench.publish(publisher, table)
        damage(bench.log, bench.log.end() - 1)
        base = publisher.snapshot(table, now_ms=0, dense={"w": np.zeros(2, np.float32)}, program=b"", spec_toml="")
        for value in (4.0, 5.0):
            change(table, 4, value=value)
            dense = {"w": np.full(2, value, np.float32)}
            publisher.publish(table, now_ms=0, freshness=Freshness(), dense=dense)
        replica.catch_up(0)
        version = replica.version
        bench.store.write_base(base)
        replica.poll(10_000)
        while replica.lag_records or replica.queued_rows or replica.degraded:
            replica.apply_slice(1)
            replica.poll(10_000)
            assert replica.ready
            assert (replica.version, replica.dense["w"].tolist()) == (version, [5.0, 5.0])
        assert replica.applied.bases == 2
        assert same_rows(replica.table, table)

    def test_weights_of_a_newer_epoch_are_taken_whatever_their_number(
        self, bench: Bench, table: EmbeddingTable
    ) -> None:
        """A store that was emptied numbers its versions from the start."""
        replica, first = bench.replica(), bench.publisher(writer="first")
        for number in range(3):
            bench.now_ms = number
            manifest = bench.write_base(first, table)
        replica.load()
        for name in bench.store.bases().manifests:
            shutil.rmtree(bench.folder / "m" / name.name)
        bench.log.append(b"k", b"noise")
        bench.log.commit(0)
        second = bench.publisher(writer="second")
        bench.publish(second, table)
        bench.now_ms = 9
        again = bench.write_base(second, table)
        assert (again.version, again.epoch) < (manifest.version, manifest.epoch + 2)
        replica.catch_up(10_000)
        assert replica.applied.bases == 2
        assert replica.version == again.version
        assert replica.dense["w"].tolist() == [9, 9]

    def test_a_damaged_newest_base_costs_a_longer_replay_only(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        change(table, 3)
        manifest = bench.write_base(publisher, table)
        (bench.folder / "m" / manifest.name / "embeddings.safetensors").write_bytes(b"torn")
        change(table, 4)
        bench.publish(publisher, table)
        replica = bench.replica()
        assert replica.load().manifest.version == manifest.version - 1
        replica.catch_up(0)
        assert same_rows(replica.table, table)
        assert bench.kinds() == [Incident.BAD_BASE]
        assert manifest.name in bench.incidents[0][2]

    def test_a_new_epoch_that_does_not_begin_at_its_claim_is_a_gap(
        self, bench: Bench, publisher: Publisher, table: EmbeddingTable
    ) -> None:
        replica = bench.replica()
        replica.load()
        bench.publish(publisher, table)
        append(bench, encode(replace(newest_block(bench), epoch=2, sequence=3)))
        replica.catch_up(0)
        assert bench.kinds() == [Incident.GAP]


def test_default_slices_are_those_of_the_configuration(
    bench: Bench, publisher: Publisher, table: EmbeddingTable
) -> None:
    replica = bench.replica(config=replace(REPLICA_CONFIG, slice_rows=6))
    replica.load()
    change(table, *range(1, 11))
    bench.publish(publisher, table)
    replica.poll(0)
    assert (replica.apply_slice(), replica.apply_slice(2), replica.apply_slice()) == (6, 2, 2)

"""What is published, when, and that nothing is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.schemas import DeltaBlock, DenseRef, EpochClaim, Freshness
from rillet.sync import LogUnavailableError, ModelStore, Publisher, PublisherConfig, StoreUnavailableError, SyncError
from rillet.sync.blocks import rows_of, verify_block
from tests.sync.conftest import Bench
from tests.sync.fakes import DIM, FIDS, MODEL_HASH, TABLE_SHARD, WriterLink, trainer_table


def blocks(bench: Bench) -> list[DeltaBlock]:
    return [record for record in bench.records() if isinstance(record, DeltaBlock)]


def test_touched_rows_go_out_in_blocks_of_bounded_size(bench: Bench) -> None:
    table = trainer_table(FIDS)
    publication = bench.publisher().publish(table, now_ms=0, freshness=Freshness(7, 8))

    found = blocks(bench)
    assert [len(block.fids) for block in found] == [10, 10, 5]
    for block in found:
        verify_block(block)
        assert (block.model, block.table, block.shard, block.dim) == ("m", "embeddings", 0, DIM)
        assert block.model_hash == MODEL_HASH
        assert (block.freshness.newest_event_ms, block.freshness.newest_ingest_ms) == (7, 8)
    fids = np.concatenate([block.fids for block in found])
    assert np.array_equal(fids, FIDS)
    assert np.array_equal(np.concatenate([rows_of(block) for block in found]), table.values(fids))
    assert (publication.blocks, publication.rows, publication.tombstones) == (3, 25, 0)
    records = bench.log.read(0, 100, 0.0)
    assert [record.key for record in records] == [b"claim|0"] + [b"embeddings|0"] * 3
    assert publication.bytes == sum(len(record.value) for record in records[1:])


def test_only_what_was_touched_since_goes_out(bench: Bench) -> None:
    table, publisher = trainer_table(FIDS), bench.publisher()
    bench.publish(publisher, table)
    table.upsert(np.array([3, 9]), np.ones((2, DIM), np.float32))
    bench.publish(publisher, table)
    assert blocks(bench)[-1].fids.tolist() == [3, 9]
    assert len(table.touched.pending()) == 0


def test_deleted_rows_go_out_as_tombstones(bench: Bench) -> None:
    table, publisher = trainer_table(FIDS), bench.publisher()
    bench.publish(publisher, table)
    table.delete(np.array([4, 5]))
    table.upsert(np.array([5]), np.ones((1, DIM), np.float32))
    publication = publisher.publish(table, now_ms=0, freshness=Freshness())
    assert [(block.fids.tolist(), block.tombstones.tolist()) for block in blocks(bench)[-2:]] == [([5], []), ([], [4])]
    assert (publication.rows, publication.tombstones) == (1, 1)


def test_sequence_numbers_are_consecutive_over_blocks_and_dense_references(bench: Bench) -> None:
    table, publisher = trainer_table(FIDS), bench.publisher()
    weights = {"w": np.ones(2, np.float32)}
    publisher.publish(table, now_ms=0, freshness=Freshness(), dense=weights)
    bench.publish(publisher, table)
    records = bench.records()
    assert [record.sequence for record in records] == list(range(len(records)))
    assert [type(record) for record in records] == [EpochClaim, *[DeltaBlock] * 3, DenseRef, DeltaBlock]


def test_nothing_touched_still_says_how_far_training_is(bench: Bench) -> None:
    table, publisher = trainer_table(), bench.publisher()
    publisher.publish(table, now_ms=0, freshness=Freshness(77, 78))
    (block,) = blocks(bench)
    assert len(block.fids) == 0
    assert (block.freshness.newest_event_ms, block.freshness.newest_ingest_ms) == (77, 78)


def test_a_dense_blob_is_in_the_store_before_it_is_announced(bench: Bench) -> None:
    weights = {"w": np.arange(3, dtype=np.float32)}
    publication = bench.publisher().publish(trainer_table(), now_ms=0, freshness=Freshness(), dense=weights)
    ref = bench.records()[-1]
    assert isinstance(ref, DenseRef)
    assert np.array_equal(bench.store.load_dense(ref.path, ref.sha256)["w"], weights["w"])
    assert ref.version == publication.dense_version == 1


@pytest.mark.parametrize("samples", [1, 200])
def test_no_record_is_larger_than_the_bytes_that_a_block_may_have(bench: Bench, samples: int) -> None:
    config = PublisherConfig(max_block_bytes=2_500, freshness_samples=samples)
    times = np.full(200, 1_700_000_000_000)
    table = trainer_table(np.arange(1, 1_001))
    bench.publisher(config=config).publish(table, now_ms=0, freshness=Freshness(times[0], times[0], times))
    records = [record for record in bench.log.read(0, 1_000, 0.0) if record.key.startswith(b"embeddings")]
    assert max(len(record.key) + len(record.value) for record in records) <= 2_500
    assert sum(len(block.fids) for block in blocks(bench)) == 1_000


@pytest.mark.parametrize("count", [3, 50])
def test_ingest_times_travel_on_the_last_block_thinned(bench: Bench, count: int) -> None:
    config = PublisherConfig(max_block_rows=10, freshness_samples=5)
    times = np.arange(1000, 1000 + count)
    bench.publisher(config=config).publish(trainer_table(FIDS), now_ms=0, freshness=Freshness(0, 0, times))
    *others, last = blocks(bench)
    assert all(len(block.freshness.action_ingest_ms) == 0 for block in others)
    assert len(last.freshness.action_ingest_ms) == min(count, 5)
    assert last.freshness.action_ingest_ms[[0, -1]].tolist() == [times[0], times[-1]]


class TestFullLog:
    """The log takes a few records at a time: the writer flushes and goes on."""

    def test_everything_goes_out_in_order(self, bench: Bench) -> None:
        link, table = WriterLink(bench.log, np.random.default_rng(0), max_queued=2), trainer_table(FIDS)
        publication = bench.publisher(link).publish(
            table, now_ms=0, freshness=Freshness(), dense={"w": np.ones(2, np.float32)}
        )
        assert publication.blocks == 3
        assert [record.sequence for record in bench.records()] == [0, 1, 2, 3, 4]
        assert np.concatenate([block.fids for block in blocks(bench)]).tolist() == FIDS.tolist()

    def test_a_flush_that_fails_then_is_a_failed_publication(self, bench: Bench) -> None:
        link, table = WriterLink(bench.log, np.random.default_rng(0), max_queued=1), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.publish(publisher, trainer_table())
        link.fate = "nothing"
        with pytest.raises(LogUnavailableError):
            bench.publish(publisher, table)
        assert table.touched.pending().tolist() == FIDS.tolist()
        bench.publish(publisher, table)
        assert publisher.epoch == 2

    def test_a_record_that_never_fits_is_an_error_that_says_what_to_lower(self, bench: Bench) -> None:
        link, table = WriterLink(bench.log, np.random.default_rng(0)), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.publish(publisher, trainer_table())
        link.max_queued = 0
        with pytest.raises(SyncError, match=r"does not fit the empty queue .* lower \[publisher\] max_block_bytes"):
            bench.publish(publisher, table)
        assert table.touched.pending().tolist() == FIDS.tolist()


class TestFailures:
    """A publication that is not acknowledged has not happened, as far as the writer may assume."""

    @pytest.mark.parametrize("fate", ["lost_ack", "partial", "nothing", "late"])
    def test_keys_are_kept_until_acknowledged(self, bench: Bench, fate: str) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.publish(publisher, table)
        table.upsert(np.array([3, 9]), np.ones((2, DIM), np.float32))
        link.fate = fate
        with pytest.raises(LogUnavailableError):
            bench.publish(publisher, table)
        table.upsert(np.array([4]), np.ones((1, DIM), np.float32))

        assert table.touched.pending().tolist() == [3, 4, 9]
        bench.publish(publisher, table)
        assert {3, 4, 9} <= set(blocks(bench)[-1].fids.tolist())
        assert len(table.touched.pending()) == 0

    def test_a_failure_opens_a_new_epoch_so_that_late_records_are_stale(self, bench: Bench) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.write_base(publisher, table)
        replica = bench.replica()
        replica.load()
        table.upsert(np.array([3]), np.ones((1, DIM), np.float32))
        link.fate = "late"
        with pytest.raises(LogUnavailableError):
            bench.publish(publisher, table)
        table.upsert(np.array([3]), np.full((1, DIM), 2, np.float32))
        bench.publish(publisher, table)
        link.deliver_late()
        replica.catch_up(0)

        assert publisher.epoch == 2
        assert replica.table.values(np.array([3])).tolist() == [[2.0] * DIM]
        assert [kind.value for kind in bench.kinds()] == ["stale_epoch"]
        assert not replica.degraded

    def test_ingest_times_of_a_failed_publication_travel_on_the_next(self, bench: Bench) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.publish(publisher, table)
        for fate, time in (("nothing", 11), ("ok", 12)):
            link.fate = fate
            times = np.array([time])
            try:
                publisher.publish(table, now_ms=0, freshness=Freshness(0, 0, times))
            except LogUnavailableError:
                assert fate == "nothing"
        assert blocks(bench)[-1].freshness.action_ingest_ms.tolist() == [11, 12]

    def test_action_times_that_were_acknowledged_do_not_travel_twice(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        publisher = bench.publisher(link)
        bench.publish(publisher, table)

        def away() -> int:
            raise LogUnavailableError("away")

        with monkeypatch.context() as patch:
            patch.setattr(link, "end", away)  # asked after the acknowledgement
            with pytest.raises(LogUnavailableError):
                publisher.publish(table, now_ms=0, freshness=Freshness(0, 0, np.array([11])))
        publisher.publish(table, now_ms=0, freshness=Freshness(0, 0, np.array([12])))
        assert [block.freshness.action_ingest_ms.tolist() for block in blocks(bench)][-2:] == [[11], [12]]

    def test_rows_go_out_though_the_store_fails_and_the_failure_is_told(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()

        def failing(version: int, dense: object) -> None:
            raise StoreUnavailableError("no store")

        monkeypatch.setattr(bench.store, "write_dense", failing)
        with pytest.raises(StoreUnavailableError, match="no store"):
            publisher.publish(table, now_ms=0, freshness=Freshness(), dense={"w": np.ones(1)})
        assert sum(len(block.fids) for block in blocks(bench)) == len(FIDS)
        assert len(table.touched.pending()) == 0
        assert publisher.dense_due(0, 0)

    def test_a_base_that_could_not_be_written_is_due_again_soon(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        publisher.snapshot(table, now_ms=0, dense={}, program=b"", spec_toml="")
        publisher.base_failed(0)
        assert not publisher.base_due(9_999)
        assert publisher.base_due(10_000)


def test_a_store_of_another_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="store is of model 'other', not of 'm'"):
        Publisher(bench.log, ModelStore(str(tmp_path), "other"), TABLE_SHARD, writer="w")


class TestIntervals:
    """The caller's clock decides."""

    def test_all_is_due_at_first_and_then_after_its_interval(self, bench: Bench) -> None:
        config = PublisherConfig(sparse_interval_s=10, dense_interval_s=60, base_interval_s=3600)
        table, publisher = trainer_table(FIDS), bench.publisher(config=config)
        assert publisher.sparse_due(500)
        assert publisher.dense_due(500, 0)
        assert publisher.base_due(500)

        bench.now_ms = 500
        weights = {"w": np.ones(1)}
        publisher.publish(table, now_ms=500, freshness=Freshness(), dense=weights)
        bench.write_base(publisher, table)
        for due, ms in (
            (publisher.sparse_due, 10_500),
            (lambda now_ms: publisher.dense_due(now_ms, 0), 60_500),
            (publisher.base_due, 3_600_500),
        ):
            assert not due(ms - 1)
            assert due(ms)
            # Set back by a day: nothing is put off for a day.
            assert due(500 - 86_400_000)

    def test_dense_weights_that_the_model_has_outgrown_are_due_before_their_interval_is_over(
        self, bench: Bench
    ) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        publisher.publish(
            table, now_ms=0, freshness=Freshness(), dense={"w": np.ones(1, np.float32)}, trained_rows=1000
        )
        assert not publisher.dense_due(10_000, 1100)
        assert publisher.dense_due(10_000, 1101)
        publisher.publish(table, now_ms=10_000, freshness=Freshness())
        assert publisher.dense_due(20_000, 1101), "it is still to come"

    def test_too_many_touched_keys_are_due_at_once(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher(config=PublisherConfig(max_touched=25))
        bench.publish(publisher, table)
        table.upsert(FIDS[:24], np.ones((24, DIM), np.float32))
        assert not publisher.sparse_due(0, table)
        table.upsert(FIDS[24:], np.ones((1, DIM), np.float32))
        assert publisher.sparse_due(0, table)

    def test_a_restarted_trainer_counts_from_the_newest_base(self, bench: Bench) -> None:
        bench.now_ms = 1000
        table, first = trainer_table(FIDS), bench.publisher()
        bench.write_base(first, table)
        second = bench.publisher(writer="second", state=first.state())
        assert not second.base_due(1000 + 3_599_999)
        assert second.base_due(1000 + 3_600_000)

    def test_a_base_of_another_spec_counts_for_nothing(self, bench: Bench) -> None:
        """Servers of our spec cannot load it: one that went back to an earlier spec would wait a whole interval."""
        table, first = trainer_table(FIDS), bench.publisher()
        bench.write_base(first, table)
        ours = replace(TABLE_SHARD, model_hash=MODEL_HASH + 1)
        back = Publisher(bench.log, bench.store, ours, writer="back", state=first.state())
        assert back.base_due(0)


class TestBases:
    """A base is the state of a log prefix."""

    def test_touched_rows_are_published_before_a_base_is_taken(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        manifest = bench.write_base(publisher, table)
        assert len(table.touched.pending()) == 0
        assert sum(len(block.fids) for block in blocks(bench)) == len(FIDS)
        assert manifest.next_offset == bench.log.end()
        assert (manifest.epoch, manifest.next_sequence) == (1, len(bench.records()))

    def test_a_base_says_what_it_holds(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        publisher.publish(table, now_ms=3, freshness=Freshness(50, 60))
        bench.now_ms = 4
        manifest = bench.write_base(publisher, table)
        assert (manifest.model, manifest.table, manifest.dim, manifest.rows) == ("m", "embeddings", DIM, len(FIDS))
        assert (manifest.model_hash, manifest.created_ms) == (MODEL_HASH, 4)
        assert (manifest.newest_event_ms, manifest.newest_ingest_ms) == (50, 60)

    def test_a_snapshot_does_not_change_with_the_table(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        weights = {"w": np.zeros(2)}
        base = publisher.snapshot(table, now_ms=0, dense=weights, program=b"", spec_toml="")
        before = base.rows.copy()
        table.upsert(FIDS, np.ones((len(FIDS), DIM), np.float32))
        weights["w"] += 1
        assert np.array_equal(base.rows, before)
        assert base.dense["w"].tolist() == [0, 0]

    def test_a_base_whose_rows_are_taken_while_the_table_changes_is_of_the_moment_at_which_it_began(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rillet.embeddings.snapshot.PART_ROWS", 2)
        table, publisher = trainer_table(FIDS), bench.publisher()
        expected = dict(zip(*(array.tolist() for array in table.items()), strict=True))
        begun = publisher.begin_base(table, now_ms=0, dense={}, program=b"", spec_toml="")
        parts = [begun.table.take()]
        table.upsert(FIDS, np.ones((len(FIDS), DIM), np.float32))
        table.delete(FIDS[:2])
        table.find_or_insert(np.arange(10_001, 10_020), 0)
        base = begun.base([part for part in parts if part] + list(iter(begun.table.take, None)))
        assert dict(zip(base.fids.tolist(), base.rows.tolist(), strict=True)) == expected
        assert base.manifest.rows == len(FIDS)

    def test_a_base_that_lacks_rows_is_none(self, bench: Bench) -> None:
        begun = bench.publisher().begin_base(trainer_table(FIDS), now_ms=0, dense={}, program=b"", spec_toml="")
        with pytest.raises(RuntimeError, match=f"{len(FIDS)} rows was given 0"):
            begun.base([])

    def test_versions_rise_over_dense_blobs_bases_and_writers(self, bench: Bench) -> None:
        table, first = trainer_table(FIDS), bench.publisher(writer="first")
        assert first.publish(
            table, now_ms=0, freshness=Freshness(), dense={"w": np.ones(1)}
        ).dense_version == 1  # fmt: skip
        assert bench.write_base(first, table).version == 2
        assert bench.write_base(bench.publisher(writer="second"), table).version == 3

    def test_old_bases_are_collected(self, bench: Bench) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher(config=PublisherConfig(keep_bases=2))
        for _ in range(4):
            bench.write_base(publisher, table)
        assert [manifest.version for manifest in bench.store.bases().manifests] == [4, 3]

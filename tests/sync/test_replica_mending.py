"""What a replica does about a gap, a damaged record and a log that was cut or replaced: it goes on from a base."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness, encode
from rillet.sync import BaseNotFoundError, Incident, LogUnavailableError, Publisher
from tests.sync.conftest import Bench
from tests.sync.fakes import DIM, damage, same_rows
from tests.sync.log_changes import append, change, newest_block, remove


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

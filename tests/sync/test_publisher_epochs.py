"""Which of several writers may publish: claims of an epoch, zombies, and taking over what another left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness
from rillet.sync import FencedError, LogUnavailableError, ModelStore, Publisher, TableShard
from tests.sync.conftest import Bench
from tests.sync.fakes import DIM, FIDS, same_rows, trainer_table


class TestEpochs:
    """One writer at a time, and the newest wins."""

    def test_each_writer_takes_the_newest_epoch_plus_one(self, bench: Bench) -> None:
        for number in (1, 2, 3):
            publisher = bench.publisher(writer=f"w{number}")
            bench.publish(publisher, trainer_table(FIDS))
            assert publisher.epoch == number

    def test_a_zombie_is_told_and_stays_fenced(self, bench: Bench) -> None:
        zombie, table = bench.publisher(writer="old"), trainer_table(FIDS)
        bench.publish(zombie, table)
        bench.publish(bench.publisher(writer="new"), trainer_table(FIDS))
        for _ in range(2):
            with pytest.raises(FencedError, match=r"writer old .* held epoch 1, but new has taken epoch 2"):
                bench.publish(zombie, table)

    def test_a_zombie_writes_no_base(self, bench: Bench) -> None:
        zombie, table = bench.publisher(writer="old"), trainer_table(FIDS)
        bench.publish(zombie, table)
        bench.publish(bench.publisher(writer="new"), trainer_table(FIDS))
        with pytest.raises(FencedError):
            bench.write_base(zombie, table)
        assert bench.store.bases().manifests == ()

    def test_a_zombie_that_tried_the_same_epoch_first_does_not_overtake(self, bench: Bench) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        zombie = bench.publisher(link, writer="old")
        bench.publish(zombie, table)
        # Its publication fails, then its claim of epoch 2; meanwhile another takes epoch 2.
        for _ in range(2):
            link.fate = "nothing"
            with pytest.raises(LogUnavailableError):
                bench.publish(zombie, table)
        bench.publish(bench.publisher(writer="new"), trainer_table(FIDS))
        with pytest.raises(FencedError):
            bench.publish(zombie, table)

    def test_of_two_claims_of_one_epoch_the_first_in_the_log_holds(self, bench: Bench) -> None:
        slow_link = bench.link()
        slow, fast = bench.publisher(slow_link, writer="slow"), bench.publisher(writer="fast")
        send = slow_link.commit

        def commit_after_the_other(timeout_s: float) -> None:
            slow_link.commit = send  # type: ignore[method-assign]
            bench.publish(fast, trainer_table(FIDS))
            send(timeout_s)

        slow_link.commit = commit_after_the_other  # type: ignore[method-assign]
        bench.publish(slow, trainer_table(FIDS))

        assert (fast.epoch, slow.epoch) == (1, 2)
        with pytest.raises(FencedError):
            bench.publish(fast, trainer_table(FIDS))

    def test_epochs_outlive_a_truncated_log(self, bench: Bench) -> None:
        table, first = trainer_table(FIDS), bench.publisher(writer="first")
        bench.publish(first, table)
        bench.publish(bench.publisher(writer="second"), table)
        third = bench.publisher(writer="third")
        bench.write_base(third, table)
        bench.log.truncate(bench.log.end())
        fourth = bench.publisher(writer="fourth", state=third.state())
        bench.publish(fourth, table)
        assert fourth.epoch == 4

    def test_a_writer_without_a_checkpoint_learns_the_epoch_from_the_bases(self, bench: Bench) -> None:
        table = trainer_table(FIDS)
        bench.publish(bench.publisher(writer="first"), table)
        bench.write_base(bench.publisher(writer="second"), table)
        bench.log.truncate(bench.log.end())
        third = bench.publisher(writer="third")
        bench.publish(third, table)
        assert third.epoch == 3

    def test_a_checkpoint_before_the_first_claim_keeps_the_epoch_known(self, bench: Bench) -> None:
        assert bench.publisher(state={"epoch": 7, "position": 0}).state() == {"epoch": 7, "position": 0}

    def test_an_epoch_whose_claim_may_come_late_is_not_tried_again(self, bench: Bench) -> None:
        link, table = bench.link(), trainer_table(FIDS)
        publisher = bench.publisher(link)
        link.fate = "late"
        with pytest.raises(LogUnavailableError):
            bench.publish(publisher, table)
        bench.publish(publisher, table)
        assert publisher.epoch == 2
        link.deliver_late()
        bench.publish(publisher, table)
        assert publisher.epoch == 2

    def test_another_model_in_the_log_is_no_rival(self, bench: Bench, tmp_path: Path) -> None:
        table, publisher = trainer_table(FIDS), bench.publisher()
        bench.publish(publisher, table)
        other = Publisher(bench.link(), ModelStore(str(tmp_path), "other"), TableShard("other", 1), writer="o")
        bench.publish(other, trainer_table(FIDS))
        bench.publish(publisher, table)
        assert (publisher.epoch, other.epoch) == (1, 1)


class TestTakingOver:
    """A successor brings readers to its own rows, whatever its predecessor published after the checkpoint."""

    def life(self, bench: Bench) -> tuple[EmbeddingTable, dict[str, int]]:
        """A checkpointed trainer that then published a change of row 3, a new row 99 and the deletion of row 5."""
        table, publisher = trainer_table(FIDS), bench.publisher(writer="first")
        bench.write_base(publisher, table)
        saved, state = table.state(), publisher.state()
        table.upsert(np.array([3, 99]), np.ones((2, DIM), np.float32))
        table.delete(np.array([5]))
        bench.publish(publisher, table)
        return EmbeddingTable.from_state(DIM, table.config, saved), state

    def test_what_was_published_since_the_checkpoint_is_published_again_as_row_or_tombstone(self, bench: Bench) -> None:
        table, state = self.life(bench)
        replica = bench.replica()
        replica.load()
        replica.catch_up(0)
        assert not same_rows(replica.table, table)

        publication = bench.publisher(writer="second", state=state).publish(table, now_ms=0, freshness=Freshness())
        replica.catch_up(0)
        assert same_rows(replica.table, table)
        assert (publication.rows, publication.tombstones) == (2, 1)

    def test_a_checkpoint_taken_before_that_is_done_does_it_again(self, bench: Bench) -> None:
        table, state = self.life(bench)
        link = bench.link()
        second = bench.publisher(link, writer="second", state=state)
        bench.log.append(b"x", b"")  # the claim is acknowledged, the publication is not
        send, calls = link.commit, []

        def second_flush_fails(timeout_s: float) -> None:
            calls.append(timeout_s)
            link.fate = "ok" if len(calls) == 1 else "nothing"
            send(timeout_s)

        link.commit = second_flush_fails  # type: ignore[method-assign]
        with pytest.raises(LogUnavailableError):
            bench.publish(second, table)
        third = bench.publisher(writer="third", state=second.state())
        bench.publish(third, table)

        replica = bench.replica()
        replica.load()
        replica.catch_up(0)
        assert same_rows(replica.table, table)

    @pytest.mark.parametrize("lost", ["state", "log"])
    def test_with_nothing_known_all_is_published_and_a_base_is_due(self, bench: Bench, lost: str) -> None:
        table, state = self.life(bench)
        if lost == "log":
            bench.log.truncate(bench.log.end())
            bench.log.append(b"k", b"not a block")
            bench.log.commit(0)
        publisher = bench.publisher(writer="second", state=None if lost == "state" else state)
        publication = publisher.publish(table, now_ms=0, freshness=Freshness())

        assert publication.rows == len(FIDS)
        assert publication.tombstones == (1 if lost == "state" else 0)
        assert publisher.base_due(0)
        bench.write_base(publisher, table)
        replica = bench.replica()
        replica.load()
        replica.catch_up(0)
        assert same_rows(replica.table, table)

    def test_the_state_is_plain_json(self, bench: Bench) -> None:
        publisher = bench.publisher()
        bench.publish(publisher, trainer_table(FIDS))
        assert json.loads(json.dumps(publisher.state())) == {"epoch": 1, "position": bench.log.end()}

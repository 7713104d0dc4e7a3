"""No change is ever missed: the take, acknowledge, put_back protocol, and a replica that follows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rillet.embeddings import EmbeddingTable, TableConfig, TouchedKeysError

DIM = 3


def make(capacity: int = 1 << 20) -> EmbeddingTable:
    return EmbeddingTable(DIM, TableConfig(chunk_rows=8, touched_capacity=capacity), track_touched=True)


def train(table: EmbeddingTable, fids: list[int]) -> None:
    rows = table.find_or_insert(np.array(fids, np.int64), 0)
    table.apply_gradients(rows, None, np.ones((len(fids), DIM), np.float32), 0)


def test_every_kind_of_change_is_a_touch() -> None:
    table = make()
    table.find_or_insert(np.array([1, 2, 3, 4]), 0)
    table.touched.take()
    table.touched.acknowledge()
    train(table, [1, 1, 0])
    table.upsert(np.array([2, 9]), np.zeros((2, DIM), np.float32))
    table.delete(np.array([3, 77]))
    table.find_or_insert(np.array([4, 8]), 0)
    assert table.touched.take().tolist() == [1, 2, 3, 8, 9]


def test_reading_is_not_a_touch() -> None:
    table = make()
    train(table, [1, 2])
    table.touched.take()
    table.touched.acknowledge()
    table.gather_pooled(table.find(np.array([1, 2, 5])), None)
    table.values(np.array([1]))
    table.items()
    table.state()
    table.find_or_insert(np.array([1, 2]), 10_000)
    assert len(table.touched) == 0


def test_a_key_touched_while_in_flight_is_pending_again() -> None:
    table = make()
    train(table, [1, 2])
    assert table.touched.take().tolist() == [1, 2]
    train(table, [2, 3])
    table.touched.acknowledge()
    assert table.touched.take().tolist() == [2, 3]


def test_keys_put_back_come_again_with_the_new_ones_and_once() -> None:
    table = make()
    train(table, [1, 2])
    table.touched.take()
    train(table, [2, 3])
    table.touched.put_back()
    assert len(table.touched) == 3
    train(table, [1, 2, 3])
    assert len(table.touched) == 3
    assert table.touched.take().tolist() == [1, 2, 3]


def test_repeated_failures_do_not_pile_keys_up() -> None:
    table = make()
    for _ in range(20):
        train(table, list(range(1, 51)))
        assert len(table.touched) == 50
        table.touched.take()
        table.touched.put_back()
    assert len(table.touched) == 50


def test_past_its_capacity_the_set_asks_to_be_drained_and_forgets_nothing() -> None:
    table = make(capacity=100)
    train(table, list(range(1, 100)))
    assert not table.touched.should_drain
    train(table, list(range(1, 5001)))
    assert table.touched.should_drain
    assert np.array_equal(table.touched.take(), np.arange(1, 5001))
    assert not table.touched.should_drain


def test_a_second_take_before_the_first_is_settled_is_refused() -> None:
    table = make()
    train(table, [1])
    table.touched.take()
    with pytest.raises(TouchedKeysError, match="1 keys are in flight"):
        table.touched.take()
    assert table.touched.pending().tolist() == [1]


@pytest.mark.parametrize("call", ["acknowledge", "put_back"])
def test_settling_what_was_not_taken_is_refused(call: str) -> None:
    with pytest.raises(TouchedKeysError, match=call):
        getattr(make().touched, call)()


def test_taking_nothing_is_allowed_and_needs_settling_too() -> None:
    touched = make().touched
    assert len(touched.take()) == 0
    with pytest.raises(TouchedKeysError):
        touched.take()
    touched.acknowledge()


def test_a_table_without_tracking_says_so() -> None:
    table = EmbeddingTable(DIM, TableConfig())
    with pytest.raises(TouchedKeysError, match="track_touched=True"):
        _ = table.touched


def test_what_the_caller_does_to_taken_keys_does_not_reach_the_set() -> None:
    table = make()
    train(table, [1, 2])
    table.touched.take()[:] = 0
    table.touched.put_back()
    assert table.touched.take().tolist() == [1, 2]


class ReplicaFollowsTable(RuleBasedStateMachine):
    """A replica fed by acknowledged takes and by nothing else equals the table after every publication."""

    @initialize()
    def start(self) -> None:
        self.table = make(capacity=10)
        self.replica = EmbeddingTable(DIM, TableConfig(optimizer="none", chunk_rows=8))

    fids = st.lists(st.integers(0, 60), max_size=12)

    @rule(fids=fids)
    def train(self, fids: list[int]) -> None:
        train(self.table, fids)

    @rule(fids=fids)
    def insert(self, fids: list[int]) -> None:
        self.table.find_or_insert(np.array(fids, np.int64), 0)

    @rule(fids=fids)
    def delete(self, fids: list[int]) -> None:
        self.table.delete(np.array(fids, np.int64))

    @rule(fids=st.lists(st.integers(1, 60), max_size=5), value=st.floats(-1, 1, width=32))
    def upsert(self, fids: list[int], value: float) -> None:
        self.table.upsert(np.array(fids, np.int64), np.full((len(fids), DIM), value, np.float32))

    @rule(during=fids)
    def fail_to_publish(self, during: list[int]) -> None:
        self.table.touched.take()
        train(self.table, during)
        self.table.touched.put_back()

    @rule()
    def restart(self) -> None:
        self.table = EmbeddingTable.from_state(DIM, self.table.config, self.table.state())

    @rule()
    def restart_with_keys_in_flight(self) -> None:
        self.table.touched.take()
        self.restart()

    @rule()
    def publish(self) -> None:
        taken = self.table.touched.take()
        held = self.table.find(taken) >= 0
        self.replica.upsert(taken[held], self.table.values(taken[held]))
        self.replica.delete(taken[~held])
        self.table.touched.acknowledge()
        ours, theirs = self.table.items(), self.replica.items()
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])

    @invariant()
    def keys_are_counted_once_unless_deleted(self) -> None:
        assert len(self.table.touched) >= len(self.table.touched.pending())


ReplicaFollowsTable.TestCase.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestReplicaFollowsTable = ReplicaFollowsTable.TestCase

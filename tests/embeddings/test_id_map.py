"""The map against a dict, and the places where it splits, shifts back and refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rillet.embeddings import TableError
from rillet.embeddings.id_map import IdMap
from rillet.embeddings.map_kernels import SEGMENT_KEYS
from tests.embeddings import twins

#: few home slots in one segment, so that probes run into each other and a removal has keys to shift back
CROWDED = np.concatenate([twins.crowded_fids(12, 1, slot) for slot in (4093, 4095, 0, 2)])


class MapAgainstDict(RuleBasedStateMachine):
    """Any order of inserts, removals and re-inserts leaves the map and a dict with the same keys."""

    @initialize()
    def start(self) -> None:
        self.map = IdMap()
        self.model: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.bulk = 0

    @rule(picks=st.lists(st.integers(0, len(CROWDED) - 1), max_size=40), seen=st.integers(0, 2**32 - 1))
    def insert(self, picks: list[int], seen: int) -> None:
        self._assign(CROWDED[picks], seen)

    @rule(count=st.integers(1, 4000), seen=st.integers(0, 2**32 - 1))
    def insert_many(self, count: int, seen: int) -> None:
        self._assign(np.arange(self.bulk + 1, self.bulk + 1 + count), seen)
        self.bulk += count

    @rule(picks=st.lists(st.integers(0, len(CROWDED) - 1), max_size=40))
    def remove(self, picks: list[int]) -> None:
        self._remove(CROWDED[picks])

    @rule(share=st.integers(2, 5))
    def remove_many(self, share: int) -> None:
        self._remove(np.arange(1, self.bulk + 1, share))

    @invariant()
    def same_keys(self) -> None:
        assert len(self.map) == len(self.model)
        known = np.array([*self.model, 0, 1 << 61], np.int64)
        rows, unknown = self.map.find(known)
        assert np.array_equal(rows, [*self.model.values(), -1, -1])
        assert unknown == 1
        assert np.array_equal(self.map.last_seen(known), [*map(self.seen.get, self.model), -1, -1])

    def _assign(self, fids: np.ndarray, seen: int) -> None:
        rows, fresh = self.map.assign(fids, seen)
        taken = set(self.model.values())
        expected_fresh = []
        for i, (fid, row) in enumerate(zip(fids.tolist(), rows.tolist(), strict=True)):
            if fid in self.model:
                assert row == self.model[fid]
            else:
                assert row not in taken
                taken.add(row)
                self.model[fid] = row
                expected_fresh.append(i)
            self.seen[fid] = max(self.seen.get(fid, 0), seen)
        assert fresh.tolist() == expected_fresh
        assert max(taken, default=-1) < self.map.row_end

    def _remove(self, fids: np.ndarray) -> None:
        rows, removed = self.map.remove(fids)
        expected = [self.model.pop(fid, -1) for fid in fids.tolist()]
        assert rows.tolist() == expected
        assert removed == sum(row >= 0 for row in expected)
        for fid in fids.tolist():
            self.seen.pop(fid, None)


MapAgainstDict.TestCase.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMapAgainstDict = MapAgainstDict.TestCase


def test_growth_keeps_every_key_and_row() -> None:
    rng = np.random.default_rng(1)
    fids = rng.permutation(200_000).astype(np.int64) + 1
    grown = IdMap()
    rows = np.concatenate([grown.assign(part, 0)[0] for part in np.array_split(fids, 7)])
    assert np.array_equal(np.sort(rows), np.arange(len(fids)))
    found, unknown = grown.find(fids)
    assert np.array_equal(found, rows)
    assert unknown == 0


def test_growth_moves_one_segment_at_a_time() -> None:
    grown = IdMap()
    grown.assign(np.arange(1, 100_001), 0)
    before = grown._directory.copy()
    step = np.arange(100_001, 100_001 + 64)
    grown.assign(step, 0)
    # 64 keys can fill few segments; the addresses of all others stay.
    assert np.isin(before, grown._directory).all()
    assert len(np.unique(grown._directory)) - len(np.unique(before)) <= 3


def test_rows_of_removed_fids_are_given_out_again() -> None:
    grown = IdMap()
    grown.assign(np.arange(1, 1001), 0)
    for fid in range(2000, 2500):
        grown.remove(np.array([fid - 1000 if fid == 2000 else fid - 1]))
        grown.assign(np.array([fid]), 0)
    assert grown.row_end == 1000


def test_many_removals_do_not_slow_a_segment_down_with_leftovers() -> None:
    churned = IdMap()
    blocks = len(churned._blocks)
    for start in range(0, 60_000, 1000):
        fids = np.arange(start + 1, start + 1001)
        churned.assign(fids, 0)
        churned.remove(fids)
    assert len(churned) == 0
    assert len(churned._blocks) == blocks
    assert not any(block[:, 8:].reshape(len(block), -1, 2)[:, :, 0].any() for block in churned._blocks)


def test_a_fid_given_twice_in_one_call_gets_one_row() -> None:
    rows, fresh = IdMap().assign(np.array([7, 7, 0, 8, 7]), 0)
    assert rows.tolist() == [0, 0, -1, 1, 0]
    assert fresh.tolist() == [0, 3]


def test_last_seen_does_not_go_back_but_stamp_sets_it() -> None:
    stamped = IdMap()
    fids = np.array([5, 6])
    stamped.assign(fids, 100)
    stamped.assign(fids[:1], 2**32 - 1)
    stamped.assign(fids, 50)
    assert stamped.last_seen(fids).tolist() == [2**32 - 1, 100]
    stamped.stamp(np.array([5, 9]), np.array([3, 4]))
    assert stamped.last_seen(np.array([5, 6, 9])).tolist() == [3, 100, -1]


def test_fids_that_crowd_into_one_hash_prefix_are_refused_and_leave_no_trace() -> None:
    crowd = np.array([fid for fid in (twins.unmix(h) for h in range(3 * SEGMENT_KEYS)) if 0 < fid < 1 << 63], np.int64)
    assert len(crowd) > SEGMENT_KEYS
    attacked = IdMap()
    kept, _ = attacked.assign(np.array([41, 42]), 0)
    with pytest.raises(TableError, match="chosen to collide"):
        attacked.assign(crowd, 0)
    assert len(attacked) == 2
    assert attacked.find(np.array([41, 42]))[0].tolist() == kept.tolist()
    assert (attacked.find(crowd)[0] == -1).all()


def test_initial_capacity_is_held_without_a_split() -> None:
    roomy = IdMap(50_000)
    directory = roomy._directory.copy()
    roomy.assign(np.arange(1, 50_001), 0)
    assert np.array_equal(roomy._directory, directory)


def test_a_map_of_addresses_refuses_to_be_copied() -> None:
    with pytest.raises(TypeError, match="copy the table"):
        copy.deepcopy(IdMap())


@pytest.mark.parametrize("value", [1, 2, (1 << 48) | 12345, (1 << 63) - 1])
def test_unmix_inverts_mix(value: int) -> None:
    assert twins.unmix(twins.mix(value)) == value

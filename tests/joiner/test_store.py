"""Two tiers that behave as one: whatever is in memory or on disk, the store answers like a dictionary."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rillet.joiner import StoreError
from rillet.joiner.entry import Entry
from rillet.joiner.store import SliceStore
from tests.joiner.support import feature

ENTRY_BYTES = Entry(feature(1, 1, impressions=2), 0).size_bytes
SLICES, BUCKETS, REQUESTS = st.integers(0, 9), st.integers(0, 1), st.integers(0, 11)


def entry(request: int) -> Entry:
    return Entry(feature(request, 1, impressions=2), request)


class StoreLikeADictionary(RuleBasedStateMachine):
    """Any order of calls against a dictionary; memory holds about three entries."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = SliceStore(3 * ENTRY_BYTES + 500, Path(self.folder.name) / "cold")
        self.model: dict[tuple[int, str], tuple[int, int]] = {}
        self.dropped: set[tuple[int, int]] = set()

    @rule(slice_=SLICES, bucket=BUCKETS, request=REQUESTS)
    def put(self, slice_: int, bucket: int, request: int) -> None:
        # Expired slices take nothing more.
        if (bucket, f"r{request}") not in self.model and (bucket, slice_) not in self.dropped:
            self.store.put(slice_, bucket, entry(request))
            self.model[bucket, f"r{request}"] = (slice_, 0)

    @rule(bucket=BUCKETS, request=REQUESTS, task=st.integers(0, 1))
    def find_and_update(self, bucket: int, request: int, task: int) -> None:
        found = self.store.find(bucket, f"r{request}")
        expected = self.model.get((bucket, f"r{request}"))
        assert (None if found is None else (found[0], found[1].positives)) == expected
        if found is not None:
            found[1].add_positive(task, 1)
            self.store.update(found[0], bucket, found[1])
            self.model[bucket, f"r{request}"] = (found[0], found[1].positives)

    @rule(slice_=SLICES, bucket=BUCKETS)
    def scan(self, slice_: int, bucket: int) -> None:
        found = {e.event.request_id: e.positives for e in self.store.scan(slice_, bucket)}
        assert found == {r: p for (b, r), (s, p) in self.model.items() if (b, s) == (bucket, slice_)}

    @rule(slice_=SLICES, bucket=BUCKETS)
    def drop(self, slice_: int, bucket: int) -> None:
        self.store.drop(slice_, bucket)
        self.dropped.add((bucket, slice_))
        self.model = {k: v for k, v in self.model.items() if (k[0], v[0]) != (bucket, slice_)}

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def memory_is_bounded(self) -> None:
        assert 0 <= self.store.used_bytes <= 3 * ENTRY_BYTES + 500

    @invariant()
    def requests_are_counted_in_both_tiers(self) -> None:
        assert self.store.entries == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStoreLikeADictionary = StoreLikeADictionary.TestCase
TestStoreLikeADictionary.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


def test_the_oldest_slice_goes_to_disk_first(tmp_path: Path) -> None:
    store = SliceStore(2 * ENTRY_BYTES + 500, tmp_path / "cold")
    for slice_ in (7, 8, 9):
        store.put(slice_, 0, entry(slice_))
    assert store.spilled_entries == 1
    for slice_, reads in ((9, 0), (8, 0), (7, 1)):
        assert store.find(0, f"r{slice_}") is not None
        assert store.disk_reads == reads
    store.close()


def test_no_directory_is_made_while_memory_is_enough(tmp_path: Path) -> None:
    store = SliceStore(1 << 20, tmp_path / "cold")
    store.put(1, 0, entry(1))
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_dropping_everything_frees_all_memory(tmp_path: Path) -> None:
    store = SliceStore(1 << 20, tmp_path / "cold")
    for bucket in (0, 1):
        store.put(1, bucket, entry(bucket))
    store.drop(1, 0)
    assert store.find(1, "r1") is not None
    store.drop(1, 1)
    assert store.used_bytes == 0


def test_an_entry_that_was_never_put_is_not_updated(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="request r1 of slice 4 was never put"):
        SliceStore(1 << 20, tmp_path / "cold").update(4, 0, entry(1))

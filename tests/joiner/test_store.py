"""A cache of two tiers: what it has, it has as it was last; what it may lack, it says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rillet.joiner.entry import EVENT_BYTES, Entry
from rillet.joiner.store import SliceStore
from rillet.schemas import encode
from tests.joiner.full_disk import full_disk
from tests.joiner.support import feature

SLICES, BUCKETS, REQUESTS = st.integers(0, 9), st.integers(0, 1), st.integers(0, 11)


def entry(request: int, slice_: int = 0, n: int = 0) -> Entry:
    event = feature(request, 1, impressions=2)
    return Entry(event, request, data=encode(event), slice_=slice_, n=n)


ENTRY_BYTES = entry(1).size_bytes
MEMORY_BYTES = 3 * ENTRY_BYTES


class StoreLikeADictionary(RuleBasedStateMachine):
    """Any order of calls against a dictionary; memory holds about three entries."""

    @initialize(disk=st.booleans())
    def start(self, disk: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.disk = disk
        self.store = SliceStore(MEMORY_BYTES, Path(self.folder.name) / "cold" if disk else None)
        #: (bucket, request) -> slice, number there, positives
        self.model: dict[tuple[int, str], tuple[int, int, int]] = {}
        self.counts: dict[tuple[int, int], int] = {}
        self.dropped: set[tuple[int, int]] = set()

    def is_missing(self, bucket: int, found: Entry | None) -> bool:
        """Whether an answer is that the store does not know; it may not where disk holds what memory does not."""
        return found is None and self.store.lacks(bucket) and not self.disk

    @rule(slice_=SLICES, bucket=BUCKETS, request=REQUESTS)
    def put(self, slice_: int, bucket: int, request: int) -> None:
        # Expired slices take nothing more.
        if (bucket, f"r{request}") not in self.model and (bucket, slice_) not in self.dropped:
            n = self.counts.get((bucket, slice_), 0)
            self.counts[bucket, slice_] = n + 1
            self.store.put(bucket, entry(request, slice_, n))
            self.model[bucket, f"r{request}"] = (slice_, n, 0)

    @rule(bucket=BUCKETS, request=REQUESTS, task=st.integers(0, 1))
    def find_and_update(self, bucket: int, request: int, task: int) -> None:
        found = self.store.find(bucket, f"r{request}")
        if self.is_missing(bucket, found):
            return
        expected = self.model.get((bucket, f"r{request}"))
        assert (None if found is None else (found.slice_, found.n, found.positives)) == expected
        if found is not None:
            assert found.event.request_id == f"r{request}"
            found.add_positive(task, 1)
            found.keep_times(task, 1, 5, 6)
            self.store.update(bucket, found, 20)
            self.model[bucket, f"r{request}"] = (found.slice_, found.n, found.positives)

    @rule(bucket=BUCKETS, slice_=SLICES)
    def read_all(self, bucket: int, slice_: int) -> None:
        for (of_bucket, request_id), (of_slice, n, positives) in self.model.items():
            if (of_bucket, of_slice) == (bucket, slice_):
                found = self.store.at(bucket, slice_, n)
                if not self.is_missing(bucket, found):
                    assert found is not None
                    assert (found.request_id, found.positives) == (request_id, positives)

    @precondition(lambda self: self.disk and self.store._disk is not None)
    @rule()
    def fail_on_disk(self) -> None:
        assert self.store._disk is not None
        self.store._disk._db.close()
        self.disk = False

    @rule(slice_=SLICES, bucket=BUCKETS)
    def drop(self, slice_: int, bucket: int) -> None:
        self.store.drop(slice_, bucket)
        self.dropped.add((bucket, slice_))
        self.model = {k: v for k, v in self.model.items() if (k[0], v[0]) != (bucket, slice_)}
        assert self.store.at(bucket, slice_, 0) is None

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def memory_is_bounded(self) -> None:
        assert 0 <= self.store.used_bytes <= MEMORY_BYTES - self.store._decoded_bytes or not self.store._hot

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStoreLikeADictionary = StoreLikeADictionary.TestCase
TestStoreLikeADictionary.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)


def filled(memory_bytes: int, directory: Path | None) -> SliceStore:
    store = SliceStore(memory_bytes, directory)
    for slice_ in (7, 8, 9):
        store.put(0, entry(slice_, slice_))
    return store


def test_the_oldest_slice_goes_to_disk_first(tmp_path: Path) -> None:
    store = filled(2 * ENTRY_BYTES + 500, tmp_path / "cold")
    assert store.spilled_entries == 1
    for slice_, reads in ((9, 0), (8, 0), (7, 1)):
        assert store.find(0, f"r{slice_}") is not None
        assert store.disk_reads == reads
    assert not store.lacks(0)
    store.close()


def test_without_a_disk_tier_the_oldest_slice_is_asked_of_the_engine() -> None:
    store = filled(2 * ENTRY_BYTES + 500, None)
    assert [store.find(0, f"r{slice_}") is None for slice_ in (7, 8, 9)] == [True, False, False]
    assert (store.lacks(0), store.lacks(1)) == (True, False)
    store.drop(7, 0)
    assert not store.lacks(0)


def test_no_directory_is_made_while_memory_is_enough(tmp_path: Path) -> None:
    filled(1 << 20, tmp_path / "cold").close()
    assert list(tmp_path.iterdir()) == []


def test_dropping_everything_frees_all_memory(tmp_path: Path) -> None:
    store = SliceStore(1 << 20, tmp_path / "cold")
    for bucket in (0, 1):
        store.put(bucket, entry(bucket, 1))
    store.drop(1, 0)
    assert store.find(1, "r1") is not None
    store.drop(1, 1)
    assert store.used_bytes == 0


@pytest.mark.parametrize("memory_bytes", [1 << 20, 1])
def test_what_is_lost_is_lacking_and_gone_from_both_tiers(tmp_path: Path, memory_bytes: int) -> None:
    store = filled(memory_bytes, tmp_path / "cold")
    store.lose()
    assert (store.used_bytes, store.lacks(0)) == (0, True)
    assert [store.find(0, f"r{slice_}") for slice_ in (7, 8, 9)] == [None] * 3
    assert list(tmp_path.iterdir()) == []


def test_events_of_older_requests_are_kept_as_they_came_and_decoded_again_when_an_action_comes() -> None:
    store = SliceStore(40 * EVENT_BYTES, None)
    entries = [entry(number, 1, number) for number in range(20)]
    for one in entries:
        store.put(0, one)
    assert not entries[0].decoded
    assert entries[-1].decoded
    found = store.find(0, "r0")
    assert found is entries[0]
    assert found.event.request_id == "r0"


def test_what_a_full_disk_does_not_take_is_lacking_and_the_disk_is_left_alone_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(100):
        store = filled(1, tmp_path / "cold")
    assert (store.used_bytes, store.spilled_entries, store.lacks(0)) == (0, 3, True)
    assert [store.find(0, f"r{slice_}") for slice_ in (7, 8, 9)] == [None] * 3
    store.put(0, entry(10, 10))
    assert list(tmp_path.glob("cold/db")) == []
    assert [("done without" in record.message, str(tmp_path) in record.message) for record in caplog.records] == [
        (True, True)
    ]


def test_an_id_that_was_used_again_stands_for_the_later_request() -> None:
    again = entry(1, 5)
    for leave in ("spilled", "dropped"):
        store = SliceStore(1 << 20, None)
        store.put(0, entry(1, 4))
        store.put(0, again)
        if leave == "spilled":
            store._spill(4)
        else:
            store.drop(4, 0)
        assert store.find(0, "r1") is again
        store._spill(5)
        assert store.find(0, "r1") is None

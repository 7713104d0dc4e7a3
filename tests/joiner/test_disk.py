"""Spilled slices in RocksDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rillet.joiner import StoreError
from rillet.joiner.disk import DiskTier
from rillet.joiner.entry import Entry
from rillet.schemas import encode
from tests.joiner.full_disk import full_disk
from tests.joiner.support import feature


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskTier]:
    tier = DiskTier(tmp_path / "cold", memory_bytes=1 << 20)
    yield tier
    tier.close()


def entry(request: int, slice_: int = 0, n: int | None = None) -> Entry:
    event = feature(request, request, impressions=2)
    return Entry(event, request, data=encode(event), slice_=slice_, n=request if n is None else n)


def rows(*requests: int, bucket: int = 0) -> list[tuple[int, Entry]]:
    return [(bucket, entry(request)) for request in requests]


def test_an_entry_is_found_in_its_slice_and_bucket_only(disk: DiskTier) -> None:
    disk.write(3, rows(1, 2, bucket=5))
    for found in (disk.find(3, 5, "r2"), disk.get(3, 5, 2)):
        assert found is not None
        assert (found.decode().event.request_id, found.ingest_ms, found.n, found.on_disk) == ("r2", 2, 2, True)
    assert [disk.find(*at) for at in ((3, 6, "r2"), (4, 5, "r2"), (3, 5, "r3"))] == [None] * 3
    assert [disk.get(*at) for at in ((3, 6, 2), (4, 5, 2), (3, 5, 3))] == [None] * 3


def test_a_later_write_replaces_an_entry(disk: DiskTier) -> None:
    disk.write(3, rows(1))
    changed = entry(1)
    changed.add_positive(1, 1)
    disk.write(3, [(0, changed)])
    found = disk.find(3, 0, "r1")
    assert found is not None
    assert found.positives == changed.positives


def test_more_entries_than_a_write_batch_holds_are_all_there(disk: DiskTier) -> None:
    disk.write(1, rows(*range(2_100)))
    assert all(disk.get(1, 0, n) is not None for n in range(2_100))


def test_a_dropped_slice_is_gone_and_can_be_used_again(disk: DiskTier) -> None:
    disk.write(1, rows(1))
    disk.write(2, rows(2))
    assert disk.slices() == [2, 1]
    disk.drop(1)
    disk.drop(1)
    assert disk.slices() == [2]
    assert disk.find(1, 0, "r1") is None
    disk.write(1, rows(3))
    assert disk.find(1, 0, "r1") is None
    assert disk.find(1, 0, "r3") is not None


def test_closing_removes_the_directory(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "cold")
    tier.write(1, rows(1))
    tier.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"local store {tmp_path}"):
        DiskTier(tmp_path)


def fill(tier: DiskTier) -> None:
    for first in range(0, 100_000, 100):
        tier.write(first, rows(*range(first, first + 100)))


def test_a_full_disk_is_told_with_its_place_and_leaves_nothing_behind(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "cold", memory_bytes=1 << 16)
    with full_disk(), pytest.raises(StoreError, match=f"local store {tmp_path / 'cold'}: IO error"):
        fill(tier)
    tier.close()
    assert list(tmp_path.iterdir()) == []

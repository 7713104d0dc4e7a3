"""Feature events by slice in two tiers: new slices in memory, older ones on disk once memory is full.

The store is a cache of the engine's checkpointed state: the joiner loads it bucket by bucket after a
start. (Monolith, section 3.1.1: "an in-memory cache and an on-disk key-value store".)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rillet.joiner.entry import Entry
from rillet.joiner.errors import StoreError

if TYPE_CHECKING:
    from rillet.joiner.disk import DiskTier


class SliceStore:
    """Entries by (slice, bucket, request_id).

    :param memory_bytes: entries held in memory, by their own estimate; the oldest slices go to disk beyond it.
    :param directory: where the disk tier is made when first needed; must not exist then.
    """

    def __init__(self, memory_bytes: int, directory: Path) -> None:
        self._memory_bytes = memory_bytes
        self._directory = directory
        self._hot: dict[int, dict[int, dict[str, Entry]]] = {}
        self._hot_bytes: dict[int, int] = {}
        #: slice of every entry in memory
        self._slice_of: dict[tuple[int, str], int] = {}
        self._disk: DiskTier | None = None
        #: buckets that still need a slice, and how many entries they have; the slice is dropped with the last of them
        self._buckets: dict[int, dict[int, int]] = {}
        #: requests in memory and on disk
        self.entries = 0
        self.used_bytes = 0
        self.spilled_entries = 0
        #: requests read, by tier: found in memory, looked for in a slice on disk, read back from the engine's state
        self.memory_reads = self.disk_reads = self.engine_reads = 0

    def put(self, slice_: int, bucket: int, entry: Entry) -> None:
        """Adds an entry; spills the oldest slices when memory is over its bound."""
        counts = self._buckets.setdefault(slice_, {})
        counts[bucket] = counts.get(bucket, 0) + 1
        self.entries += 1
        self._hot.setdefault(slice_, {}).setdefault(bucket, {})[entry.event.request_id] = entry
        self._slice_of[bucket, entry.event.request_id] = slice_
        self._hot_bytes[slice_] = self._hot_bytes.get(slice_, 0) + entry.size_bytes
        self.used_bytes += entry.size_bytes
        self._spill_over()

    def find(self, bucket: int, request_id: str) -> tuple[int, Entry] | None:
        """The entry of a request and its slice; memory first, then the slices on disk, newest first."""
        slice_ = self._slice_of.get((bucket, request_id))
        if slice_ is not None:
            self.memory_reads += 1
            return slice_, self._hot[slice_][bucket][request_id]
        if self._disk is not None:
            for cold in self._disk.slices():
                if bucket in self._buckets[cold]:
                    self.disk_reads += 1
                    entry = self._disk.get(cold, bucket, request_id)
                    if entry is not None:
                        return cold, entry
        return None

    def update(self, slice_: int, bucket: int, entry: Entry) -> None:
        """Keeps a changed entry; needed because an entry that was read from disk is a copy."""
        if (bucket, entry.event.request_id) in self._slice_of:
            grown = entry.recount()
            self._hot_bytes[slice_] += grown
            self.used_bytes += grown
            self._spill_over()
            return
        if self._disk is None:
            raise StoreError(f"request {entry.event.request_id} of slice {slice_} was never put")
        self._disk.write(slice_, [(bucket, entry.event.request_id, entry)])

    def scan(self, slice_: int, bucket: int) -> Iterator[Entry]:
        """Every entry of a bucket in a slice, in no order."""
        yield from self._hot.get(slice_, {}).get(bucket, {}).values()
        if self._disk is not None and bucket in self._buckets.get(slice_, ()):
            yield from self._disk.scan(slice_, bucket)

    def drop(self, slice_: int, bucket: int) -> None:
        """A bucket no longer needs a slice, and puts nothing more into it.

        On disk its entries stay until the last bucket drops the slice.
        """
        for request_id, entry in self._hot.get(slice_, {}).pop(bucket, {}).items():
            del self._slice_of[bucket, request_id]
            self._hot_bytes[slice_] -= entry.size_bytes
            self.used_bytes -= entry.size_bytes
        buckets = self._buckets.get(slice_, {})
        self.entries -= buckets.pop(bucket, 0)
        if not buckets:
            self._buckets.pop(slice_, None)
            self._hot.pop(slice_, None)
            self._hot_bytes.pop(slice_, None)
            if self._disk is not None:
                self._disk.drop(slice_)

    def slices(self) -> Collection[int]:
        """The slices that have entries."""
        return self._buckets.keys()

    def close(self) -> None:
        """Releases the disk tier and removes its directory."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def _spill_over(self) -> None:
        while self.used_bytes > self._memory_bytes:
            self._spill(min(self._hot))

    def _spill(self, slice_: int) -> None:
        if self._disk is None:
            # Imported when first needed: who only reads a configuration has no RocksDB.
            from rillet.joiner.disk import DiskTier

            self._disk = DiskTier(self._directory)
        buckets = self._hot.pop(slice_)
        rows = [(bucket, request_id, entry) for bucket, part in buckets.items() for request_id, entry in part.items()]
        self._disk.write(slice_, rows)
        for bucket, request_id, _ in rows:
            del self._slice_of[bucket, request_id]
        self.spilled_entries += len(rows)
        self.used_bytes -= self._hot_bytes.pop(slice_)

"""Requests in two tiers: newer slices in memory, older ones on disk once memory is full.

A cache of the engine's checkpointed state, which is the truth: what is not here may be there, unless the store knows that
it has all of a bucket. A disk that fails, since it is full for instance, is done without until the next start. (Monolith, section 3.1.1: "an in-memory cache and an on-disk key-value store".)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rillet.joiner.entry import EVENT_BYTES, Decode, Entry, decode_feature
from rillet.joiner.errors import StoreError

if TYPE_CHECKING:
    from rillet.joiner.disk import DiskTier

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: entries that leave memory in one call, so that none takes long
_SPILL = 256


class SliceStore:
    """Entries by bucket and request, and by bucket, slice and number.

    :param memory_bytes: entries held in memory, by their own estimate; the oldest slices leave it beyond that.
    :param directory: where the disk tier is made when first needed; must not exist then. None for no disk tier.
    """

    def __init__(self, memory_bytes: int, directory: Path | None, decode: Decode = decode_feature) -> None:
        self._memory_bytes = memory_bytes
        self._directory = directory
        self.decode = decode
        #: slice -> bucket -> number in the slice
        self._hot: dict[int, dict[int, dict[int, Entry]]] = {}
        #: bucket -> request_id, of what is in memory
        self._index: dict[int, dict[str, Entry]] = {}
        #: entries whose events are decoded, although their records are there, oldest first
        self._decoded: deque[Entry] = deque()
        self._decoded_bytes = 0
        self._disk: DiskTier | None = None
        #: buckets that need a slice; on disk it is dropped with the last of them
        self._buckets: dict[int, set[int]] = {}
        #: bucket -> slices of which requests may be in the engine's state alone
        self._lacking: dict[int, set[int]] = {}
        self.used_bytes = 0
        self.spilled_entries = 0
        #: see :attr:`reads`
        self.memory_reads = self.disk_reads = self.engine_reads = 0

    def put(self, bucket: int, entry: Entry) -> None:
        """Adds an entry; the oldest ones leave when memory is over its bound."""
        slice_ = entry.slice_
        self._buckets.setdefault(slice_, set()).add(bucket)
        self._hot.setdefault(slice_, {}).setdefault(bucket, {})[entry.n] = entry
        self._index.setdefault(bucket, {})[entry.request_id] = entry
        self.used_bytes += entry.size_bytes
        if entry.data:
            self._keep_decoded(entry)
        self._make_room()

    def has_room(self, entry: Entry) -> bool:
        """Whether an entry fits into memory besides what is there."""
        return self.used_bytes + self._decoded_bytes + 2 * entry.size_bytes + EVENT_BYTES <= self._memory_bytes

    def find(self, bucket: int, request_id: str) -> Entry | None:
        """The entry of a request, decoded; memory first, then the slices on disk, newest first."""
        entry = self._index.get(bucket, _NOTHING).get(request_id)
        if entry is not None:
            self.memory_reads += 1
            if not entry.decoded:
                entry.decode(self.decode)
                self._keep_decoded(entry)
                self._make_room()
            return entry
        entry = self._ask_disk(lambda disk: self._find_cold(disk, bucket, request_id))
        return None if entry is None else entry.decode(self.decode)

    def at(self, bucket: int, slice_: int, n: int) -> Entry | None:
        """The n-th request of a bucket's slice; not decoded where it was not before."""
        entry = self._hot.get(slice_, _NONE_OF_SLICE).get(bucket, _NONE_OF_BUCKET).get(n)
        if entry is None and bucket in self._buckets.get(slice_, ()):
            return self._ask_disk(lambda disk: disk.get(slice_, bucket, n))
        return entry

    def update(self, bucket: int, entry: Entry, grown: int) -> None:
        """Keeps a changed entry, also one that is in memory no longer.

        :param grown: bytes by which it is larger than before.
        """
        entry.size_bytes += grown
        if self._index.get(bucket, _NOTHING).get(entry.request_id) is entry:
            self.used_bytes += grown
            self._make_room()
        elif entry.on_disk:
            self._ask_disk(lambda disk: disk.write(entry.slice_, [(bucket, entry)]))

    @property
    def reads(self) -> dict[str, int]:
        """Requests that were asked for, by the tier that was asked: memory, a slice on disk, the engine's state."""
        return {"memory": self.memory_reads, "disk": self.disk_reads, "engine": self.engine_reads}

    def expect(self, bucket: int, slices: Collection[int]) -> None:
        """Slices of a bucket have requests in the engine's state that may not be here."""
        self._lacking.setdefault(bucket, set()).update(slices)

    def lacks(self, bucket: int) -> bool:
        """Whether the engine's state may have requests of a bucket that are not here."""
        return bool(self._lacking.get(bucket))

    def drop(self, slice_: int, bucket: int) -> None:
        """A bucket no longer needs a slice, and puts nothing more into it.

        On disk its entries stay until the last bucket drops the slice.
        """
        for entry in self._hot.get(slice_, {}).pop(bucket, {}).values():
            self._forget_id(bucket, entry)
            self.used_bytes -= entry.size_bytes
        self._lacking.get(bucket, set()).discard(slice_)
        buckets = self._buckets.get(slice_, set())
        buckets.discard(bucket)
        if not buckets:
            self._buckets.pop(slice_, None)
            self._hot.pop(slice_, None)
            self._ask_disk(lambda disk: disk.drop(slice_))

    def lose(self) -> None:
        """Forgets everything, as a start would; the engine's state still has it."""
        for slice_, buckets in self._buckets.items():
            for bucket in buckets:
                self.expect(bucket, (slice_,))
        self._hot.clear()
        self._index.clear()
        self._buckets.clear()
        self._decoded.clear()
        self._decoded_bytes = self.used_bytes = 0
        self.close()

    def close(self) -> None:
        """Releases the disk tier and removes its directory."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def _keep_decoded(self, entry: Entry) -> None:
        self._decoded.append(entry)
        self._decoded_bytes += len(entry.data) + EVENT_BYTES
        # Actions come soon after their requests as a rule; what is older is decoded again for them.
        while self._decoded_bytes > self._memory_bytes // 4:
            oldest = self._decoded.popleft()
            self._decoded_bytes -= len(oldest.data) + EVENT_BYTES
            if oldest is not entry:
                oldest.release()

    def _make_room(self) -> None:
        """The oldest entries leave while memory is over its bound; one that is in use may be among them."""
        while self._hot and self.used_bytes + self._decoded_bytes > self._memory_bytes:
            self._spill(min(self._hot))

    def _spill(self, slice_: int) -> None:
        """Some entries of a slice leave memory: to disk, or to be asked of the engine."""
        buckets = self._hot[slice_]
        leaving: list[tuple[int, Entry]] = []
        while buckets and len(leaving) < _SPILL:
            bucket, entries = next(iter(buckets.items()))
            while entries and len(leaving) < _SPILL:
                _, entry = entries.popitem()
                leaving.append((bucket, entry))
                self._forget_id(bucket, entry)
                self.used_bytes -= entry.size_bytes
            if not entries:
                del buckets[bucket]
        if not buckets:
            del self._hot[slice_]
        self.spilled_entries += len(leaving)
        self._make_disk()
        self._ask_disk(lambda disk: disk.write(slice_, leaving))
        for bucket, entry in leaving:
            entry.on_disk = self._disk is not None
            if self._disk is None:
                self.expect(bucket, (slice_,))

    def _forget_id(self, bucket: int, entry: Entry) -> None:
        """The id of an entry stands for it no longer; it may stand for a later request, once that one was forgotten."""
        index = self._index[bucket]
        if index.get(entry.request_id) is entry:
            del index[entry.request_id]

    def _make_disk(self) -> None:
        """Makes the disk tier where there is none yet and shall be one."""
        if self._disk is None and self._directory is not None:
            # Imported when first needed: who only reads a configuration has no RocksDB.
            from rillet.joiner.disk import DiskTier

            try:
                self._disk = DiskTier(self._directory)
            except StoreError as error:
                self._do_without_disk(error)

    def _find_cold(self, disk: DiskTier, bucket: int, request_id: str) -> Entry | None:
        for cold in disk.slices():
            if bucket in self._buckets[cold]:
                self.disk_reads += 1
                entry = disk.find(cold, bucket, request_id)
                if entry is not None:
                    return entry
        return None

    def _ask_disk(self, work: Callable[[DiskTier], Answer]) -> Answer | None:
        """What the disk tier answers; None where there is none, or none any more."""
        if self._disk is None:
            return None
        try:
            return work(self._disk)
        except StoreError as error:
            self._do_without_disk(error)
            return None

    def _do_without_disk(self, error: StoreError) -> None:
        """What was on disk is asked of the engine from now on, and what leaves memory too."""
        log.warning(
            "the disk tier has failed, and is done without until the next start: requests that are not in memory are asked of"
            " Flink's state, which is slower: %s",
            error,
        )
        self._directory = None
        if self._disk is not None:
            for slice_ in self._disk.slices():
                for bucket in self._buckets.get(slice_, ()):
                    self.expect(bucket, (slice_,))
        self.close()


_NOTHING: dict[str, Entry] = {}
_NONE_OF_BUCKET: dict[int, Entry] = {}
_NONE_OF_SLICE: dict[int, dict[int, Entry]] = {}

"""The cold tier: slices of entries in a local RocksDB, one column family per slice, dropped as a whole.

A cache only: it is made empty for each start of the engine and may be deleted at any time after :meth:`close`; what
it held is in the engine's checkpointed state. One that has failed, on a full disk for instance, holds nothing for certain any
more, and is to be closed. Keys are ``n | bucket | number``, of entries, and ``r | bucket | request_id``, of
their numbers; numbers are big-endian.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from rillet.joiner.config import DISK_TIER_BYTES
from rillet.joiner.entry import Entry
from rillet.joiner.errors import StoreError

log = logging.getLogger(__name__)

_BATCH = 1_000


def _options(memory_bytes: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    # Half for unwritten data over all column families, half for blocks read back.
    options.set_db_write_buffer_size(memory_bytes // 2)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(memory_bytes // 2))
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options


def _number_key(bucket: int, n: int) -> bytes:
    return b"n" + bucket.to_bytes(2, "big") + n.to_bytes(4, "big")


def _request_key(bucket: int, request_id: str) -> bytes:
    return b"r" + bucket.to_bytes(2, "big") + request_id.encode()


class DiskTier:
    """Entries of spilled slices. Each method but :meth:`close` raises :class:`StoreError` where the disk fails.

    :param directory: is created, and removed on close; must not exist.
    :param memory_bytes: what RocksDB may use for write buffers and block cache together.
    :raises StoreError: the directory cannot be used.
    """

    def __init__(self, directory: Path, memory_bytes: int = DISK_TIER_BYTES) -> None:
        self._directory = directory
        self._options = _options(memory_bytes)
        # Rebuilt from the checkpoint after a crash, so a write-ahead log would only cost.
        self._write = WriteOptions()
        self._write.disable_wal = True  # type: ignore[method-assign,assignment] # the stub says method, it is a bool
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise self._explained(error) from error
        try:
            self._db = Rdict(str(directory / "db"), self._options, access_type=AccessType.read_write())
        except Exception as error:  # rocksdict raises bare ones
            shutil.rmtree(directory, ignore_errors=True)
            raise self._explained(error) from error
        self._families: dict[int, tuple[Rdict, ColumnFamily]] = {}

    def slices(self) -> list[int]:
        """The slices that have entries here, newest first."""
        return sorted(self._families, reverse=True)

    def write(self, slice_: int, entries: Iterable[tuple[int, Entry]]) -> None:
        """Adds (bucket, entry) to a slice, or replaces them."""
        rows = iter(entries)
        try:
            _, family = self._family(slice_)
            while part := list(islice(rows, _BATCH)):
                batch = WriteBatch(raw_mode=True)
                for bucket, entry in part:
                    batch.put(_number_key(bucket, entry.n), entry.to_bytes(), family)
                    batch.put(_request_key(bucket, entry.request_id), entry.n.to_bytes(4, "big"), family)
                self._db.write(batch, self._write)
        except Exception as error:
            raise self._explained(error) from error

    def find(self, slice_: int, bucket: int, request_id: str) -> Entry | None:
        """An entry of a slice by its request, None when it is not there."""
        if slice_ not in self._families:
            return None
        n = self._read(slice_, _request_key(bucket, request_id))
        return None if n is None else self.get(slice_, bucket, int.from_bytes(n, "big"))

    def get(self, slice_: int, bucket: int, n: int) -> Entry | None:
        """An entry of a slice by its number there, None when it is not there."""
        if slice_ not in self._families:
            return None
        data = self._read(slice_, _number_key(bucket, n))
        if data is None:
            return None
        entry = Entry.from_bytes(data)
        entry.on_disk = True
        return entry

    def drop(self, slice_: int) -> None:
        """Forgets a whole slice."""
        if self._families.pop(slice_, None) is not None:
            try:
                self._db.drop_column_family(str(slice_))
            except Exception as error:
                raise self._explained(error) from error

    def close(self) -> None:
        """Closes and removes the directory."""
        self._families.clear()
        try:
            # What is not written yet goes to disk first, in vain.
            self._db.close()
        except Exception as error:
            log.info("local store %s was not closed, and is removed all the same: %s", self._directory, error)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read(self, slice_: int, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._families[slice_][0].get(key)
        except Exception as error:
            raise self._explained(error) from error
        return value

    def _explained(self, error: Exception) -> StoreError:
        return StoreError(f"local store {self._directory}: {error}")

    def _family(self, slice_: int) -> tuple[Rdict, ColumnFamily]:
        if slice_ not in self._families:
            rdict = self._db.create_column_family(str(slice_), self._options)
            self._families[slice_] = (rdict, self._db.get_column_family_handle(str(slice_)))
        return self._families[slice_]

"""Exact map fid -> row number that also keeps when a fid was last seen, in seconds: no two fids ever share a row.

Extendible hashing (Fagin et al., 1979): a directory, indexed by the upper bits of the hash, of segments of
4,096 slots with linear probing. A full segment splits alone (in tens of microseconds), so growth never rehashes the
whole map at once. It knows row numbers only, not what lies in a row. Not thread-safe.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rillet.embeddings import map_kernels as kernels
from rillet.embeddings.errors import TableError
from rillet.schemas.arrays import Int64s

#: segments are allocated in blocks that double up to this many (4 MiB)
_MAX_BLOCK_SEGMENTS = 64
#: 2**22 segments would hold 6 * 10**9 keys; fids chosen to share a hash prefix end here, not in swap
_MAX_DEPTH = 22


class IdMap:
    """Distinct positive int64 fids to row numbers 0, 1, 2...; rows of removed fids are given out again.

    fid 0 is the padding and never in the map. Callers keep negative fids out.
    """

    def __init__(self, initial_capacity: int = 1) -> None:
        """:param initial_capacity: keys it has room for before a segment splits."""
        # 0.8: keys do not spread over the segments quite evenly.
        segments = max(1.0, initial_capacity / (0.8 * kernels.SEGMENT_KEYS))
        depth = max(1, int(np.ceil(np.log2(segments))))
        self._control = np.zeros(kernels.CONTROL_FIELDS, np.int64)
        self._control[kernels.DIRECTORY_DEPTH] = depth
        self._blocks: list[Int64s] = []
        self._segments = 0
        self._free_rows = np.empty(1024, np.int64)
        self._scratch = np.empty(kernels.SEGMENT_WORDS, np.int64)
        block = self._add_block(1 << depth)
        block[:, kernels.DEPTH] = depth
        self._directory: Int64s = block.ctypes.data + np.arange(1 << depth, dtype=np.int64) * (
            kernels.SEGMENT_WORDS * 8
        )
        self._control[kernels.SPARE_SEGMENTS] = 0

    def __len__(self) -> int:
        return int(self._control[kernels.KEYS])

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an IdMap cannot be copied or pickled, it works on addresses; copy the table")

    @property
    def row_end(self) -> int:
        """One above the highest row number ever given out."""
        return int(self._control[kernels.NEXT_ROW])

    @property
    def nbytes(self) -> int:
        """Memory of directory, segments and free list, in bytes."""
        return self._directory.nbytes + sum(block.nbytes for block in self._blocks) + self._free_rows.nbytes

    def find(self, fids: Int64s) -> tuple[Int64s, int]:
        """Rows int64[n], -1 for padding and unknown fids, and how many were unknown."""
        rows = np.empty(len(fids), np.int64)
        unknown = kernels.find(fids, self._directory, self.depth, rows)
        return rows, int(unknown)

    def assign(self, fids: Int64s, seen_s: int) -> tuple[Int64s, Int64s]:
        """Rows int64[n], inserting unknown fids, and the indices int64[k] of those inserted (in order).

        :param seen_s: second to stamp entries with, where it is later than theirs; 0 to 2**32-1.
        :raises TableError: the directory would grow beyond all measure; the map's keys are as before.
        """
        rows = np.empty(len(fids), np.int64)
        fresh = np.empty(len(fids), np.int64)
        control = self._control
        control[kernels.REACHED] = control[kernels.FRESH] = 0
        while True:
            answer = kernels.assign(fids, seen_s, self._directory, control, self._free_rows, self._scratch, rows, fresh)
            if answer == kernels.DONE:
                return rows, fresh[: control[kernels.FRESH]]
            try:
                if answer == kernels.NEEDS_DEPTH:
                    self._deepen()
                else:
                    self._add_block(min(_MAX_BLOCK_SEGMENTS, self._segments))
            except (TableError, MemoryError):
                self.remove(fids[fresh[: control[kernels.FRESH]]])
                raise

    def remove(self, fids: Int64s) -> tuple[Int64s, int]:
        """Former rows int64[n] (-1 where there was none) and how many fids were removed."""
        free = int(self._control[kernels.FREE_ROWS])
        if free + len(fids) > len(self._free_rows):
            self._free_rows = np.concatenate([self._free_rows, np.empty(free + len(fids), np.int64)])
        rows = np.empty(len(fids), np.int64)
        removed = kernels.remove(fids, self._directory, self._control, self._free_rows, rows)
        return rows, int(removed)

    def last_seen(self, fids: Int64s) -> Int64s:
        """Last-seen seconds int64[n], -1 where the fid is unknown."""
        seconds = np.empty(len(fids), np.int64)
        kernels.last_seen(fids, self._directory, self.depth, seconds)
        return seconds

    def list_part(self, part: int, bits: int) -> tuple[Int64s, Int64s, Int64s]:
        """Fids, rows and last-seen seconds, int64[n] each, of the fids whose hash begins with ``part``, of ``bits`` bits."""
        room = kernels.part_capacity(part, bits, self._directory, self.depth)
        fids, rows, seconds = (np.empty(room, np.int64) for _ in range(3))
        count = kernels.list_part(part, bits, self._directory, self.depth, fids, rows, seconds)
        return fids[:count], rows[:count], seconds[:count]

    def stamp(self, fids: Int64s, seconds: Int64s) -> None:
        """Sets last-seen seconds, to earlier ones too; fids that are not in the map are skipped."""
        kernels.stamp(fids, seconds, self._directory, self.depth)

    @property
    def depth(self) -> int:
        """Bits of the hash by which the directory is indexed."""
        return int(self._control[kernels.DIRECTORY_DEPTH])

    def _deepen(self) -> None:
        if self.depth >= _MAX_DEPTH:
            raise TableError(
                f"id map: {len(self)} keys crowd into one hash prefix of {self.depth} bits; "
                "the fids were chosen to collide, look at where they come from"
            )
        self._directory = np.repeat(self._directory, 2)
        self._control[kernels.DIRECTORY_DEPTH] += 1

    def _add_block(self, segments: int) -> Int64s:
        block = np.zeros((segments, kernels.SEGMENT_WORDS), np.int64)
        self._blocks.append(block)
        self._segments += segments
        self._control[kernels.SPARE_ADDRESS] = block.ctypes.data
        self._control[kernels.SPARE_SEGMENTS] = segments
        return block

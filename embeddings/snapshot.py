"""A table as it was at one moment, taken part by part while the table goes on changing.

Copy on write, by row: whoever is about to change or remove a row that was not taken yet has it copied first. So a
snapshot costs no pause, and the memory of the rows that change while it is taken. The fids of a part are those whose hash
begins with the part's number: neither a segment that splits nor a row that is given out again moves one into another part.
It has no thread: parts are taken between two calls of the table, by the table's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rillet.embeddings import map_kernels, row_kernels, snapshot_kernels
from rillet.embeddings.id_map import IdMap
from rillet.embeddings.slabs import RowSlabs
from rillet.schemas.arrays import AnyArray, Float32s, Int64s

#: rows of a part, about: so few that copying them takes a millisecond
PART_ROWS = 8_192
#: a part is listed from at most two to the power of this many segments of the map, each of 64 KiB
_PART_DEPTH = 3
#: rows of a block of copies, a power of two
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class TablePart:
    """Some of a snapshot's rows; parts follow each other in the order of their fids' hashes."""

    #: int64[n], in any order
    fids: Int64s
    #: int64[n], when each was last seen, seconds
    seen_s: Int64s
    #: float32[n, columns]
    rows: Float32s

    def ordered(self) -> TablePart:
        """The same rows in the order of their fids' hashes. It takes longer than taking the part; from any thread."""
        order = np.argsort(hashes(self.fids))
        return TablePart(self.fids[order], self.seen_s[order], self.rows[order])


class TableSnapshot:
    """What :meth:`rillet.embeddings.EmbeddingTable.snapshot` gives. Not thread-safe, but for :meth:`header`."""

    def __init__(
        self,
        id_map: IdMap,
        slabs: RowSlabs,
        row_end: int,
        columns: int,
        header: Callable[[], dict[str, AnyArray]],
        on_end: Callable[[TableSnapshot], None],
    ) -> None:
        """
        :param row_end: one above the highest row of the moment.
        :param columns: floats of a row that are taken.
        :param header: what belongs to the moment beside the rows.
        :param on_end: called once, when all parts are taken or the snapshot was closed.
        """
        #: how many rows all parts have together
        self.count = len(id_map)
        self.columns = columns
        #: what belongs to the moment beside the rows, arrays by name; from any thread
        self.header = header
        self._map = id_map
        self._slabs = slabs
        # A part lies in few segments of the map, however few rows they hold: listing it reads them wholly.
        self._bits = max(1, (self.count // PART_ROWS).bit_length(), id_map.depth - _PART_DEPTH)
        self._next = 0
        #: zeros cost nothing before they are written
        self._done = np.zeros(row_end, np.uint8)
        self._copies = RowSlabs(columns, _BLOCK_ROWS)
        self._copied = 0
        #: by part: the number of its newest copy, and how many it has
        self._newest = np.full(1 << self._bits, -1, np.int64)
        self._counts = np.zeros(1 << self._bits, np.int64)
        self._ready: deque[TablePart] = deque()
        self._on_end: Callable[[TableSnapshot], None] | None = on_end

    @property
    def nbytes(self) -> int:
        """Memory of what was copied before it changed, and of what was not taken yet of it, in bytes."""
        ready = sum(part.rows.nbytes + part.fids.nbytes + part.seen_s.nbytes for part in self._ready)
        return self._done.nbytes + self._newest.nbytes + self._counts.nbytes + self._copies.nbytes + ready

    def take(self) -> TablePart | None:
        """The next part; None once all were taken."""
        if self._ready:
            return self._ready.popleft()
        if self._next == 1 << self._bits:
            return None
        part = self._read(self._next)
        # After the copy: were there no memory for it, none of its rows must count as taken.
        self._next += 1
        if self._next == 1 << self._bits:
            self._end()
        return part

    def close(self) -> None:
        """Lets go of what was not taken; the table copies nothing more."""
        self._ready.clear()
        self._end()

    def _end(self) -> None:
        self._next = 1 << self._bits
        self._copies = RowSlabs(self.columns, _BLOCK_ROWS)
        if self._on_end is not None:
            self._on_end(self)
            self._on_end = None

    def before_change(self, rows: Int64s) -> None:
        """For the table: rows int64[n] are about to change or to be removed; -1 is skipped."""
        # Memory first: a row that is set done and not copied would be missing from the snapshot.
        copies = self._copies
        copies.ensure(self._copied + len(rows))
        chosen, fids, parts = (np.empty(len(rows), np.int64) for _ in range(3))
        slabs = self._slabs
        count = snapshot_kernels.choose(
            rows, slabs.marks_at, slabs.shift, self._done, self._next, self._bits, chosen, fids, parts
        )
        fids = fids[:count]
        self._copied += snapshot_kernels.copy(
            chosen[:count],
            fids,
            parts[:count],
            self._map.last_seen(fids),
            slabs.rows_at,
            slabs.shift,
            slabs.width,
            copies.rows_at,
            copies.marks_at,
            copies.shift,
            self.columns,
            self._copied,
            self._newest,
            self._counts,
        )

    def before_change_of_all(self) -> None:
        """For the table: all rows are about to change. What was not taken yet is copied, which takes long."""
        while self._next < 1 << self._bits:
            self._ready.append(self._read(self._next))
            self._next += 1
        self._end()

    def inserted(self, rows: Int64s) -> None:
        """For the table: fids that the moment did not have were given ``rows`` int64[n]."""
        self._done[rows[rows < len(self._done)]] = 1

    def _read(self, part: int) -> TablePart:
        fids, rows, seen_s = self._map.list_part(part, self._bits)
        known = rows < len(self._done)
        known[known] = self._done[rows[known]] == 0
        chosen = np.flatnonzero(known)
        copies, slabs = self._copies, self._slabs
        numbers, copied_fids, copied_s = (np.empty(self._counts[part], np.int64) for _ in range(3))
        snapshot_kernels.list_copies(self._newest[part], copies.marks_at, copies.shift, numbers, copied_fids, copied_s)
        out = np.empty((len(chosen) + len(numbers), self.columns), np.float32)
        row_kernels.gather(rows[chosen], slabs.rows_at, slabs.shift, slabs.width, out[: len(chosen)])
        row_kernels.gather(numbers, copies.rows_at, copies.shift, copies.width, out[len(chosen) :])
        return TablePart(np.concatenate([fids[chosen], copied_fids]), np.concatenate([seen_s[chosen], copied_s]), out)


def hashes(fids: Int64s) -> AnyArray:
    """uint64[n], by which saved rows are ordered: distinct fids have distinct hashes."""
    out = np.empty(len(fids), np.uint64)
    map_kernels.hashes(fids, out)
    return out

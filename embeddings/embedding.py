"""The embedding table: fids in, pooled rows out, gradients in, and what changed since it was last published.

Collisionless (Monolith section 2.1): every fid has a row of its own. It has no clock and no threads; calls must
not overlap. Its kernels run without the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rillet.embeddings import check_kernels, row_kernels, state, update_kernels
from rillet.embeddings.config import TableConfig
from rillet.embeddings.errors import GradientError, TableInputError, TouchedKeysError
from rillet.embeddings.id_map import IdMap
from rillet.embeddings.inputs import (
    NO_LENGTHS,
    check_fids,
    check_lengths,
    check_matrix,
    check_out,
    check_rows,
    check_time,
)
from rillet.embeddings.optimizers import make_optimizer
from rillet.embeddings.slabs import RowSlabs
from rillet.embeddings.snapshot import TableSnapshot
from rillet.embeddings.touched import TouchedKeys
from rillet.schemas.arrays import AnyArray, Float32s, Int64s, UInt16s


class EmbeddingTable:
    """int64 fid -> float32[dim], with optimiser slots beside it. See ``TableConfig``.

    Column 0 of a row is the linear weight and starts at 0. fid 0 pads: it has no row and reads as zeros.
    Row numbers hold until the fid is deleted.
    """

    def __init__(self, dim: int, config: TableConfig, *, track_touched: bool = False) -> None:
        """:param dim: floats of an embedding, the linear weight included.
        :param track_touched: keep the set of changed fids (:attr:`touched`).
        :raises TableInputError: dim below 1.
        """
        if dim < 1:
            raise TableInputError(f"dim: {dim} is below 1")
        self.dim = dim
        self.config = config
        #: reads of fids that are not in the table (padding not counted), since it was made
        self.unknown_reads = 0
        self._map = IdMap(config.initial_capacity)
        self._optimizer = make_optimizer(dim, config)
        self._slabs = RowSlabs(dim + self._optimizer.slots, config.chunk_rows)
        self._touched = TouchedKeys(config.touched_capacity) if track_touched else None
        #: those not taken wholly yet
        self._snapshots: list[TableSnapshot] = []
        self._calls = 0
        #: fids that take_back removes
        self._inserted = np.empty(0, np.int64)
        self._unique = np.empty(0, np.int64)
        self._sums = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self._map)

    @property
    def nbytes(self) -> int:
        """Memory of map and rows, in bytes."""
        return self._map.nbytes + self._slabs.nbytes

    @property
    def touched(self) -> TouchedKeys:
        """The changed fids.

        :raises TouchedKeysError: the table was made without ``track_touched``.
        """
        if self._touched is None:
            raise TouchedKeysError("touched: the table does not track changes; make it with track_touched=True")
        return self._touched

    def find(self, fids: Int64s) -> Int64s:
        """Row numbers int64[n] of fids int64[n]; -1 for padding and unknown fids.

        :raises TableInputError: wrong dtype or shape, or a negative fid.
        """
        rows, unknown = self._map.find(check_fids(fids))
        self.unknown_reads += unknown
        return rows

    def find_or_insert(self, fids: Int64s, now_ms: int) -> Int64s:
        """Row numbers int64[n], a fresh row for each unknown fid; -1 for padding. Stamps last-seen.

        :param now_ms: time since 1970, kept to the second; a time before the fid's last is ignored.
        :raises TableInputError: wrong dtype or shape, a negative fid, or a time out of range.
        """
        return self._insert(check_fids(fids), check_time(now_ms))

    def take_back(self) -> int:
        """Removes what the last :meth:`find_or_insert` inserted, as if it had never been there; returns how many fids.

        To be called before anything else changes the table. Known fids keep their new time: they were seen.
        """
        fids, self._inserted = self._inserted, np.empty(0, np.int64)
        if len(fids):
            if self._snapshots:
                # One that was begun in between has them.
                self._before_change(self._map.find(fids)[0])
            rows, _ = self._map.remove(fids)
            row_kernels.release(rows, self._slabs.marks_at, self._slabs.shift)
            if self._touched is not None:
                self._touched.forget_last(len(fids))
        return len(fids)

    def gather_pooled(self, rows: Int64s, lengths: UInt16s | None, out: Float32s | None = None) -> Float32s:
        """Mean of each segment's rows, float32[segments, dim]; -1 counts as a row of zeros.

        :param rows: int64[F] from :meth:`find` or :meth:`find_or_insert`, segment after segment.
        :param lengths: uint16[segments] with sum F; None = one row per segment. An empty segment reads as zeros.
        :param out: written and returned where given, C-contiguous float32[segments, dim].
        :raises TableInputError: shapes that do not fit together, or a row number that this table never gave.
        """
        check_rows(rows, self._row_end)
        segments = check_lengths(lengths, len(rows))
        result = check_out(out, segments, self.dim)
        slabs = self._slabs
        if lengths is None:
            row_kernels.gather(rows, slabs.rows_at, slabs.shift, slabs.width, result)
        else:
            row_kernels.gather_mean(rows, lengths, slabs.rows_at, slabs.shift, slabs.width, result)
        return result

    def apply_gradients(
        self, rows: Int64s, lengths: UInt16s | None, grad: Float32s, now_ms: int, *, step_factor: float = 1.0
    ) -> int:
        """One optimiser step for each distinct row; returns how many there were.

        A row's gradient is the sum over its segments of the segment's gradient / length. -1 is skipped.

        :param rows: int64[F], lengths: as given to :meth:`gather_pooled`.
        :param grad: float32[segments, dim], of the pooled embeddings.
        :param now_ms: event time, by which the optimiser's sums decay; a time before that of an earlier call counts as
            that one's.
        :param step_factor: of the configured step size, for this call.
        :raises GradientError: a row's gradients sum to what cannot be squared and added up; no row was changed.
        :raises TableInputError: shapes that do not fit together, or the table has no optimiser.
        """
        slabs = self._slabs
        check_rows(rows, self._row_end)
        segments = check_lengths(lengths, len(rows))
        grad = check_matrix("grad", grad, segments, self.dim)
        if len(self._unique) < len(rows):
            self._unique = np.empty(len(rows), np.int64)
            self._sums = np.empty((len(rows), self.dim), np.float32)
        self._calls += 1
        count = update_kernels.sum_by_row(
            rows,
            NO_LENGTHS if lengths is None else lengths,
            grad,
            slabs.marks_at,
            slabs.shift,
            self._calls,
            self._unique,
            self._sums,
        )
        unique, sums = self._unique[:count], self._sums[:count]
        # Of the sums: those of finite gradients of the same row may not be.
        if not check_kernels.squares_have_room(sums):
            raise GradientError(
                "grad: a row's gradients are not finite, or the square of their sum is too large to be added up"
            )
        self._inserted = self._inserted[:0]
        self._before_change(unique)
        if self._snapshots and self._optimizer.changes_all(now_ms):
            for snapshot in list(self._snapshots):
                snapshot.before_change_of_all()
        self._optimizer.step(slabs, unique, sums, now_ms, step_factor)
        self._mark(unique)
        return int(count)

    def values(self, fids: Int64s) -> Float32s:
        """Embeddings float32[n, dim], zeros for padding and unknown fids.

        :raises TableInputError: wrong dtype or shape, or a negative fid.
        """
        return self.gather_pooled(self.find(fids), None)

    def upsert(self, fids: Int64s, values: Float32s, now_ms: int = 0) -> None:
        """Sets embeddings, inserting unknown fids; optimiser slots stay as they are, or start fresh.

        :param values: float32[n, dim]; of a fid given twice the last values stay.
        :raises TableInputError: wrong dtype or shape, a negative or padding fid.
        """
        fids = check_fids(fids)
        values = check_matrix("values", values, len(fids), self.dim)
        if len(fids) and not fids.all():
            raise TableInputError("upsert: fid 0 is padding and cannot have a row")
        rows = self._insert(fids, check_time(now_ms))
        row_kernels.scatter(rows, values, self._slabs.rows_at, self._slabs.shift, self._slabs.width)
        self._mark(rows)

    def delete(self, fids: Int64s) -> int:
        """Removes fids and frees their rows; returns how many were there. Their deletion counts as a touch.

        :raises TableInputError: wrong dtype or shape, or a negative fid.
        """
        fids = check_fids(fids)
        self._inserted = self._inserted[:0]
        if self._snapshots:
            self._before_change(self._map.find(fids)[0])
        rows, removed = self._map.remove(fids)
        self._mark(rows)
        row_kernels.release(rows, self._slabs.marks_at, self._slabs.shift)
        return removed

    def last_seen(self, fids: Int64s) -> Int64s:
        """Last-seen times int64[n] in ms, to the second; -1 where the fid is unknown."""
        seconds = self._map.last_seen(check_fids(fids))
        return np.where(seconds < 0, -1, seconds * 1000)

    def items(self) -> tuple[Int64s, Float32s]:
        """All fids int64[n], ascending, and their embeddings float32[n, dim]."""
        fids, rows = self._live()
        return fids, self.gather_pooled(rows, None)

    def snapshot(self, *, slots: bool = True) -> TableSnapshot:
        """The table as it is now, to be taken part by part while it goes on changing.

        Until all parts are taken or it is closed, each row is copied before its first change.

        :param slots: with those of the optimiser; without them rows are embeddings.
        """
        columns = self._slabs.width if slots else self.dim
        clock = self._optimizer.clock()
        touched = None if self._touched is None else self._touched.unsorted()

        def header() -> dict[str, AnyArray]:
            return state.header(self.dim, self.config, clock, None if touched is None else np.unique(touched))

        found = TableSnapshot(self._map, self._slabs, self._row_end, columns, header, self._snapshots.remove)
        self._snapshots.append(found)
        return found

    def state(self) -> dict[str, AnyArray]:
        """All that :meth:`from_state` needs to go on bit for bit: copies, independent of the table."""
        snapshot = self.snapshot()
        try:
            parts = [part.ordered() for part in iter(snapshot.take, None)]
            return state.pack(snapshot.header(), parts)
        finally:
            snapshot.close()

    @classmethod
    def from_state(cls, dim: int, config: TableConfig, state_arrays: Mapping[str, AnyArray]) -> EmbeddingTable:
        """A table that continues where the other's :meth:`state` was taken; keys then in flight are pending.

        Tracks touched keys if the other did.

        :raises TableStateError: the arrays are incomplete, inconsistent, or of another dim or optimiser.
        """
        table = cls(dim, config)
        saved = state.unpack(state_arrays, dim, config, table._slabs.width)
        rows = table._insert(saved.fids, 0)
        row_kernels.scatter(rows, saved.rows, table._slabs.rows_at, table._slabs.shift, table._slabs.width)
        table._optimizer.load_clock(table._slabs, saved.clock)
        table._map.stamp(saved.fids, saved.seen_s)
        if saved.touched is not None:
            table._touched = TouchedKeys(config.touched_capacity)
            known, _ = table._map.find(saved.touched)
            table._mark(known)
            table._touched.add_deleted(saved.touched[known < 0])
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        # Kernels hold addresses, so a table is copied and pickled as its state, never member by member.
        return EmbeddingTable.from_state, (self.dim, self.config, self.state())

    @property
    def _row_end(self) -> int:
        # Row numbers freed by an insert that found no memory may lie beyond what the slabs hold.
        return min(self._map.row_end, self._slabs.row_end)

    def _before_change(self, rows: Int64s) -> None:
        for snapshot in self._snapshots:
            snapshot.before_change(rows)

    def _insert(self, fids: Int64s, now_s: int) -> Int64s:
        if self._snapshots:
            # Known fids are stamped, and most of them soon stepped.
            self._before_change(self._map.find(fids)[0])
        rows, fresh = self._map.assign(fids, now_s)
        self._inserted = fids[fresh]
        for snapshot in self._snapshots:
            snapshot.inserted(rows[fresh])
        if len(fresh):
            slabs, config = self._slabs, self.config
            try:
                slabs.ensure(self._map.row_end)
            except MemoryError:
                self._map.remove(self._inserted)
                self._inserted = self._inserted[:0]
                raise
            row_kernels.initialise(
                fresh,
                fids,
                rows,
                slabs.rows_at,
                slabs.marks_at,
                slabs.shift,
                self.dim,
                slabs.width,
                config.seed,
                config.init_scale,
            )
            self._mark(rows[fresh])
        return rows

    def _mark(self, rows: Int64s) -> None:
        touched = self._touched
        if touched is not None:
            touched.mark(rows, self._slabs)

    def _live(self) -> tuple[Int64s, Int64s]:
        fids = np.empty(len(self), np.int64)
        rows = np.empty(len(self), np.int64)
        row_kernels.live(self._row_end, self._slabs.marks_at, self._slabs.shift, fids, rows)
        order = np.argsort(fids)
        return fids[order], rows[order]

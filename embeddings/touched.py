"""Which fids changed since they were last published, and nothing is ever forgotten.

A publisher takes the pending keys, publishes their rows, then acknowledges them, or puts them back if that failed.
Each take ends a round. Source: Monolith section 2.2 (touched-key set); unlike there, a full set asks to be drained
and goes on growing.
"""

from __future__ import annotations

import numpy as np

from rillet.embeddings import row_kernels
from rillet.embeddings.errors import TouchedKeysError
from rillet.embeddings.slabs import RowSlabs
from rillet.schemas.arrays import Int64s


class TouchedKeys:
    """The pending fids of one table and the ones in flight. Not thread-safe.

    A fid is touched when its row was inserted, updated, overwritten or deleted. A taken fid that the table no
    longer holds was deleted: it is to be published as a tombstone.
    """

    def __init__(self, capacity: int) -> None:
        """:param capacity: pending keys from which :attr:`should_drain` is true."""
        self.capacity = capacity
        #: pending fids are _keys[:_count]
        self._keys = np.empty(1024, np.int64)
        self._count = 0
        #: the present round, with which rows are stamped when touched
        self._round = 1
        #: rows touched in this round or a later one are pending already
        self._oldest_round = 1
        self._in_flight: Int64s | None = None
        self._in_flight_round = 0

    def __len__(self) -> int:
        """Pending keys, those in flight not counted (a fid deleted and inserted again may count twice)."""
        return self._count

    @property
    def should_drain(self) -> bool:
        """Whether so many keys are pending that they should be taken early. None is dropped if they are not."""
        return self._count >= self.capacity

    @property
    def in_flight(self) -> int:
        """Number of keys taken and neither acknowledged nor put back."""
        return 0 if self._in_flight is None else len(self._in_flight)

    def pending(self) -> Int64s:
        """All keys not yet acknowledged, in flight ones too: distinct, sorted, a copy."""
        distinct: Int64s = np.unique(self.unsorted())
        return distinct

    def unsorted(self) -> Int64s:
        """The keys of :meth:`pending` as they came, some of them twice: a copy, made in no time."""
        in_flight = [] if self._in_flight is None else [self._in_flight]
        return np.concatenate([self._keys[: self._count], *in_flight])

    def take(self) -> Int64s:
        """Moves the pending keys into flight and returns them: int64[n], distinct, sorted.

        :raises TouchedKeysError: earlier keys are still in flight.
        """
        if self._in_flight is not None:
            raise TouchedKeysError(
                f"take: {len(self._in_flight)} keys are in flight; acknowledge them or put them back first"
            )
        self._in_flight = np.unique(self._keys[: self._count])
        self._in_flight_round = self._oldest_round
        self._count = 0
        self._round += 1
        self._oldest_round = self._round
        return self._in_flight.copy()

    def acknowledge(self) -> None:
        """Forgets the keys in flight: they are published for good.

        :raises TouchedKeysError: nothing is in flight.
        """
        if self._in_flight is None:
            raise TouchedKeysError("acknowledge: no keys are in flight")
        self._in_flight = None

    def put_back(self) -> None:
        """Makes the keys in flight pending again, beside those touched meanwhile.

        :raises TouchedKeysError: nothing is in flight.
        """
        if self._in_flight is None:
            raise TouchedKeysError("put_back: no keys are in flight")
        pending = self.pending()
        self._in_flight = None
        self._keys = pending
        self._count = len(pending)
        self._oldest_round = self._in_flight_round

    def mark(self, rows: Int64s, slabs: RowSlabs) -> None:
        """Adds the fids of rows that are not pending yet; for the table, before it frees a row.

        :param rows: int64[n], row numbers of ``slabs``; -1 is skipped.
        """
        self._reserve(len(rows))
        self._count = row_kernels.mark_touched(
            rows, slabs.marks_at, slabs.shift, self._oldest_round, self._round, self._keys, self._count
        )

    def forget_last(self, count: int) -> None:
        """Takes back the keys that were added last, for the table, which takes back their rows."""
        self._count -= count

    def add_deleted(self, fids: Int64s) -> None:
        """Adds fids that have no row any more, for a table restored from a saved state."""
        self._reserve(len(fids))
        self._keys[self._count : self._count + len(fids)] = fids
        self._count += len(fids)

    def _reserve(self, more: int) -> None:
        """Makes room for ``more`` pending keys."""
        if self._count + more > len(self._keys):
            self._keys = np.concatenate([self._keys, np.empty(self._count + more, np.int64)])

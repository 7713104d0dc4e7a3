"""Row storage in chunks: float32 rows (embedding, then optimiser slots) and int64 marks, neither ever moved.

A chunk is added when a row number needs it; kernels reach chunks through their addresses. What a row means
is up to the table.
"""

from __future__ import annotations

import numpy as np

from rillet.embeddings.row_kernels import MARKS
from rillet.schemas.arrays import Float32s, Int64s


class RowSlabs:
    """``width`` float32 and ``MARKS`` int64 per row, zero until written; grows by whole chunks."""

    def __init__(self, width: int, chunk_rows: int) -> None:
        """:param chunk_rows: a power of two."""
        self.width = width
        self.chunk_rows = chunk_rows
        self.shift = chunk_rows.bit_length() - 1
        self._rows: list[Float32s] = []
        self._marks: list[Int64s] = []
        #: addresses of the chunks, int64[chunks]
        self.rows_at = np.empty(0, np.int64)
        self.marks_at = np.empty(0, np.int64)

    @property
    def row_end(self) -> int:
        """One above the highest row that has memory."""
        return len(self._rows) * self.chunk_rows

    @property
    def nbytes(self) -> int:
        """Memory of all chunks, in bytes; pages that no row has reached are reserved only."""
        return sum(chunk.nbytes for chunk in self._rows) + sum(chunk.nbytes for chunk in self._marks)

    def ensure(self, row_end: int) -> None:
        """Makes room for rows 0 to ``row_end`` - 1."""
        missing = -(-row_end // self.chunk_rows) - len(self._rows)
        if missing <= 0:
            return
        # All allocated before any is added: when memory runs out, the slabs are as they were.
        rows = [np.zeros((self.chunk_rows, self.width), np.float32) for _ in range(missing)]
        marks = [np.zeros((self.chunk_rows, MARKS), np.int64) for _ in range(missing)]
        self._rows += rows
        self._marks += marks
        self.rows_at = np.array([chunk.ctypes.data for chunk in self._rows], np.int64)
        self.marks_at = np.array([chunk.ctypes.data for chunk in self._marks], np.int64)

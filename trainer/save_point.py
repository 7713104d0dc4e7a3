"""All that a checkpoint holds, of one moment, while training goes on: copies, and a snapshot of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rillet.embeddings import TablePart, TableSnapshot, array_file
from rillet.schemas.arrays import AnyArray
from rillet.trainer.checkpoint import Arrays, CheckpointStore


@dataclass(frozen=True, slots=True, eq=False)
class SavePoint:
    """What :meth:`rillet.trainer.OnlineTrainer.save_point` gives. The parts of its table are taken by the training thread."""

    table: TableSnapshot
    #: everything else: file stem -> arrays by name
    files: dict[str, Arrays]
    #: plain JSON values
    meta: dict[str, Any]

    def write(self, store: CheckpointStore, parts: Iterable[TablePart]) -> int:
        """Writes a version; from any thread.

        :param parts: all that the table gives, in its order. It may wait for them; what it raises ends the writing and
            leaves no version.
        :returns: the version.
        :raises RuntimeError: parts are missing, or too many.
        """
        return store.save({"table": self._table_file(parts), **self.files}, self.meta)

    def _table_file(self, parts: Iterable[TablePart]) -> Iterator[memoryview]:
        """The table as a file, of which no more than a part and two columns are in memory at a time."""
        table, header = self.table, self.table.header()
        sizes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "rows": (np.dtype(np.float32), (table.count, table.columns)),
            "fids": (np.dtype(np.int64), (table.count,)),
            "seen_s": (np.dtype(np.int64), (table.count,)),
            **array_file.sizes_of(header),
        }

        def arrays() -> Iterator[AnyArray]:
            """Rows as they come, then the columns that were gathered meanwhile, then the header."""
            fids, seen_s = [], []
            for part in parts:
                ordered = part.ordered()
                fids.append(ordered.fids)
                seen_s.append(ordered.seen_s)
                yield ordered.rows
            yield from (*fids, *seen_s, *header.values())

        return array_file.pieces(sizes, arrays())

"""A base of one moment whose rows are still to be taken from the table, while that goes on changing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rillet.embeddings import TablePart, TableSnapshot
from rillet.sync.manifest import Base, Dense, Manifest


@dataclass(frozen=True, slots=True, eq=False)
class BaseSnapshot:
    """What :meth:`rillet.sync.Publisher.begin_base` gives. The parts of its table are taken by the publisher's thread."""

    manifest: Manifest
    table: TableSnapshot
    dense: Dense
    #: a ``torch.export`` archive; opaque here
    program: bytes
    spec_toml: str

    def base(self, parts: Iterable[TablePart]) -> Base:
        """The base in memory; from any thread.

        :param parts: all that the table gives, in its order.
        :raises RuntimeError: parts are missing, or too many.
        """
        count = self.table.count
        fids, rows = np.empty(count, np.int64), np.empty((count, self.table.columns), np.float32)
        end = 0
        for part in parts:
            ordered = part.ordered()
            start, end = end, end + len(ordered.fids)
            if end > count:
                break
            fids[start:end], rows[start:end] = ordered.fids, ordered.rows
        if end != count:
            raise RuntimeError(f"a base of {count} rows was given {end} or more")
        return Base(self.manifest, fids, rows, self.dense, self.program, self.spec_toml)

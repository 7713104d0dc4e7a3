"""Exceptions of ``embeddings``.

TableError
├── TableInputError      an argument of the wrong dtype, shape or range
├── TableStateError      a saved state that does not fit the table it is loaded into
└── TouchedKeysError     take, acknowledge and put_back out of turn, or a table that tracks nothing
"""

from __future__ import annotations

from rillet.schemas import RilletError


class TableError(RilletError):
    """Root of what an embedding table raises."""


class TableInputError(TableError):
    """An argument has the wrong dtype, shape or range; the table is unchanged."""


class TableStateError(TableError):
    """A saved state is incomplete or was written by a table of another shape or optimiser."""


class TouchedKeysError(TableError):
    """The take, acknowledge, put_back protocol was broken, or the table was built without tracking."""

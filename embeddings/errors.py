"""Exceptions of ``embeddings``.

TableError
├── TableInputError      an argument of the wrong dtype, shape or range
├── GradientError        gradients whose sum for a row is too large to be learned from
├── TableStateError      a saved state that does not fit the table it is loaded into
└── TouchedKeysError     take, acknowledge and put_back out of turn, or a table that tracks nothing
"""

from __future__ import annotations

from rillet.schemas import RilletError


class TableError(RilletError):
    """Root of what an embedding table raises."""


class TableInputError(TableError):
    """An argument has the wrong dtype, shape or range; the table is unchanged."""


class GradientError(TableError):
    """The gradients of a row sum to a number whose square is not finite; no row's embedding or slots changed."""


class TableStateError(TableError):
    """A saved state is incomplete or was written by a table of another shape or optimiser."""


class TouchedKeysError(TableError):
    """The take, acknowledge, put_back protocol was broken, or the table was built without tracking."""

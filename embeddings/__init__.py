"""Exact embedding tables: every fid has a row of its own. numpy and numba.

Importing the package loads the configuration and the errors; numba and the kernels load when a table is first
asked for, so that reading a configuration file stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rillet.embeddings.config import Optimizer, TableConfig
from rillet.embeddings.errors import GradientError, TableError, TableInputError, TableStateError, TouchedKeysError
from rillet.schemas.lazy import lazy_names

if TYPE_CHECKING:
    from rillet.embeddings.crosses import CrossColumns
    from rillet.embeddings.embedding import EmbeddingTable
    from rillet.embeddings.id_map import IdMap
    from rillet.embeddings.snapshot import TablePart, TableSnapshot
    from rillet.embeddings.touched import TouchedKeys

__all__ = [
    "CrossColumns",
    "EmbeddingTable",
    "GradientError",
    "IdMap",
    "Optimizer",
    "TableConfig",
    "TableError",
    "TableInputError",
    "TablePart",
    "TableSnapshot",
    "TableStateError",
    "TouchedKeys",
    "TouchedKeysError",
]

__getattr__ = lazy_names(
    __name__,
    {
        "rillet.embeddings.crosses": ["CrossColumns"],
        "rillet.embeddings.embedding": ["EmbeddingTable"],
        "rillet.embeddings.id_map": ["IdMap"],
        "rillet.embeddings.snapshot": ["TablePart", "TableSnapshot"],
        "rillet.embeddings.touched": ["TouchedKeys"],
    },
)

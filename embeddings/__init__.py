"""Exact embedding tables: every fid has a row of its own. numpy and numba.

Importing the package loads the configuration and the errors; numba and the kernels load when a table is first
asked for, so that reading a configuration file stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rillet.embeddings.config import Optimizer, TableConfig
from rillet.embeddings.errors import TableError, TableInputError, TableStateError, TouchedKeysError

if TYPE_CHECKING:
    from rillet.embeddings.embedding import EmbeddingTable
    from rillet.embeddings.id_map import IdMap
    from rillet.embeddings.touched import TouchedKeys

__all__ = [
    "EmbeddingTable",
    "IdMap",
    "Optimizer",
    "TableConfig",
    "TableError",
    "TableInputError",
    "TableStateError",
    "TouchedKeys",
    "TouchedKeysError",
]

_LAZY = {
    "EmbeddingTable": "rillet.embeddings.embedding",
    "IdMap": "rillet.embeddings.id_map",
    "TouchedKeys": "rillet.embeddings.touched",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

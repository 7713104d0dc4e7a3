"""From the trainer's table to the servers' tables: delta log, base snapshots, publisher and replica.

What works on tables loads numba when it is first asked for, so that reading a configuration file stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sync.config import SyncConfig
from sync.errors import (
    BaseNotFoundError,
    BlockError,
    CorruptArtifactError,
    FencedError,
    LogUnavailableError,
    PositionOutOfRangeError,
    StoreUnavailableError,
    SyncError,
)
from sync.log import DeltaLog, LogRecord, MemoryLog
from sync.manifest import Base, Dense, Manifest

if TYPE_CHECKING:
    from sync.history import replica_as_of
    from sync.intake import Incident
    from sync.publisher import Publication, Publisher
    from sync.replica import Applied, Replica
    from sync.store import ModelStore

__all__ = [
    "Applied",
    "Base",
    "BaseNotFoundError",
    "BlockError",
    "CorruptArtifactError",
    "DeltaLog",
    "Dense",
    "FencedError",
    "Incident",
    "LogRecord",
    "LogUnavailableError",
    "Manifest",
    "MemoryLog",
    "ModelStore",
    "PositionOutOfRangeError",
    "Publication",
    "Publisher",
    "Replica",
    "StoreUnavailableError",
    "SyncConfig",
    "SyncError",
    "replica_as_of",
]

_LAZY = {
    "Applied": "sync.replica",
    "Incident": "sync.intake",
    "ModelStore": "sync.store",
    "Publication": "sync.publisher",
    "Publisher": "sync.publisher",
    "Replica": "sync.replica",
    "replica_as_of": "sync.history",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

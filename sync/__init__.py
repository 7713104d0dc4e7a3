"""From the trainer's table to the servers' tables: delta log, base snapshots, publisher and replica.

What works on tables loads numba when it is first asked for, so that reading a configuration file stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rillet.schemas.lazy import lazy_names
from rillet.sync.config import PublisherConfig, ReplicaConfig, StoreConfig
from rillet.sync.errors import (
    BaseNotFoundError,
    BlockError,
    CorruptArtifactError,
    FencedError,
    LogUnavailableError,
    OtherSpecBaseError,
    PositionOutOfRangeError,
    StoreUnavailableError,
    SyncError,
)
from rillet.sync.log import DeltaLog, LogRecord, MemoryLog
from rillet.sync.manifest import Base, Dense, Manifest

if TYPE_CHECKING:
    from rillet.sync.base_snapshot import BaseSnapshot
    from rillet.sync.blocks import TableShard
    from rillet.sync.history import replica_as_of
    from rillet.sync.listener import ReplicaListener
    from rillet.sync.publisher import Publication, Publisher
    from rillet.sync.replica import Applied, Replica
    from rillet.sync.store import ModelStore
    from rillet.sync.validation import Incident

__all__ = [
    "Applied",
    "Base",
    "BaseNotFoundError",
    "BaseSnapshot",
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
    "OtherSpecBaseError",
    "PositionOutOfRangeError",
    "Publication",
    "Publisher",
    "PublisherConfig",
    "Replica",
    "ReplicaConfig",
    "ReplicaListener",
    "StoreConfig",
    "StoreUnavailableError",
    "SyncError",
    "TableShard",
    "replica_as_of",
]

__getattr__ = lazy_names(
    __name__,
    {
        "rillet.sync.base_snapshot": ["BaseSnapshot"],
        "rillet.sync.blocks": ["TableShard"],
        "rillet.sync.history": ["replica_as_of"],
        "rillet.sync.listener": ["ReplicaListener"],
        "rillet.sync.publisher": ["Publication", "Publisher"],
        "rillet.sync.replica": ["Applied", "Replica"],
        "rillet.sync.store": ["ModelStore"],
        "rillet.sync.validation": ["Incident"],
    },
)

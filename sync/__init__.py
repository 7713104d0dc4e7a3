"""From the trainer's table to the servers' tables: delta log, base snapshots, publisher and replica."""

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
from sync.history import replica_as_of
from sync.intake import Incident
from sync.log import DeltaLog, LogRecord, MemoryLog
from sync.manifest import Base, Dense, Manifest
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

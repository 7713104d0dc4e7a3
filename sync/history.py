"""The model as it was at a position of the log: for scoring with a frozen model, and for looking back.

The base taken is the newest whose next offset is at or before the position; the log is then replayed from there
up to the position, by the same code that a replica runs. Which base it is makes no difference to the rows
(see ``rillet.sync.publisher``), only to how much is replayed.
"""

from __future__ import annotations

from typing import Any

from rillet.sync.blocks import TableShard
from rillet.sync.config import ReplicaConfig
from rillet.sync.errors import BaseNotFoundError, CorruptArtifactError
from rillet.sync.listener import ReplicaListener
from rillet.sync.log import DeltaLog
from rillet.sync.replica import Replica
from rillet.sync.store import ModelStore
from rillet.sync.validation import Incident

#: what says nothing of the rows: records of others, and records that do not count
_HARMLESS = (Incident.OTHER_MODEL, Incident.OTHER_TABLE, Incident.STALE_EPOCH, Incident.DUPLICATE, Incident.BAD_BASE)


def replica_as_of(
    store: ModelStore,
    log: DeltaLog,
    table_shard: TableShard,
    position: int,
    *,
    config: ReplicaConfig | None = None,
    timeout_s: float = 5.0,
) -> Replica:
    """A replica that has applied everything below ``position`` and nothing else; it stays there.

    :param position: of the log, such as its ``end()`` at the moment to look back to.
    :returns: ``table``, ``dense``, ``version`` and ``base`` (program, spec) of then.
    :raises BaseNotFoundError: there is no whole base at or before the position and inside the log.
    :raises CorruptArtifactError: a record below the position is damaged or missing, or the dense blob of then is
        damaged or was collected (``keep_dense``).
    :raises LogUnavailableError: StoreUnavailableError likewise.
    """
    if not 0 <= position <= log.end():
        raise BaseNotFoundError(f"position {position} is not in the delta log, which ends at {log.end()}")
    damage = _Damage()
    replica = Replica(store, log, table_shard, config=config, listener=damage, stop_position=position)
    replica.load()
    replica.catch_up(0, timeout_s)
    if damage.found or replica.degraded:
        raise CorruptArtifactError(
            f"model {store.model!r} cannot be rebuilt as of {position}: {'; '.join(damage.found) or 'rows are missing'}"
        )
    return replica


class _Damage(ReplicaListener[Any]):
    """Notes what keeps a replica from being exact."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def on_incident(self, incident: Incident, position: int, detail: str) -> None:
        if incident not in _HARMLESS:
            self.found.append(f"{incident} at {position}: {detail}")

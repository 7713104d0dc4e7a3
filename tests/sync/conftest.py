"""A shared log, a store in a folder, and a way to make publishers and replicas on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, DeltaRecord, DenseRef, EpochClaim, Freshness, decode
from rillet.sync import (
    Base,
    Dense,
    Incident,
    Manifest,
    MemoryLog,
    ModelStore,
    Publisher,
    PublisherConfig,
    Replica,
    ReplicaConfig,
    ReplicaListener,
    TableShard,
)
from tests.bases import write_base
from tests.sync.fakes import FIDS, TABLE_SHARD, WriterLink, trainer_table

PUBLISHER_CONFIG = PublisherConfig(max_block_rows=10)
REPLICA_CONFIG = ReplicaConfig(slice_rows=4, fetch_records=5, base_check_interval_s=1.0)


class Listener(ReplicaListener[str]):
    """Notes what a replica tells, in order; tests watch blocks by a callback."""

    def __init__(self, bench: Bench, on_applied: Callable[[DeltaBlock], None]) -> None:
        self.told: list[str] = []
        self._bench = bench
        self._on_applied = on_applied

    def prepare(self, base: Base) -> str:
        return f"prepared {base.manifest.version}"

    def on_base(self, base: Base, prepared: str) -> None:
        self.told.append(f"base {base.manifest.version}: {prepared}")

    def on_dense(self, version: int, dense: Dense) -> None:
        self.told.append(f"dense {version}: {dense['w'].tolist()}")

    def on_applied(self, block: DeltaBlock) -> None:
        self._on_applied(block)

    def on_incident(self, incident: Incident, position: int, detail: str) -> None:
        self._bench.incidents.append((incident, position, detail))


@dataclass
class Bench:
    """One log and one store, with publishers and replicas of model "m"."""

    folder: Path
    store: ModelStore
    log: MemoryLog = field(default_factory=MemoryLog)
    incidents: list[tuple[Incident, int, str]] = field(default_factory=list)
    now_ms: int = 0
    #: of the replica made last
    listener: Listener = field(init=False)

    def link(self) -> WriterLink:
        return WriterLink(self.log, np.random.default_rng(0))

    def publisher(
        self,
        link: WriterLink | None = None,
        *,
        writer: str = "writer",
        config: PublisherConfig = PUBLISHER_CONFIG,
        state: dict[str, int] | None = None,
    ) -> Publisher:
        return Publisher(link or self.link(), self.store, TABLE_SHARD, writer=writer, config=config, state=state)

    def publish(self, publisher: Publisher, table: EmbeddingTable) -> None:
        publisher.publish(table, now_ms=self.now_ms, freshness=Freshness(self.now_ms, self.now_ms))

    def write_base(self, publisher: Publisher, table: EmbeddingTable) -> Manifest:
        return write_base(
            publisher,
            self.store,
            table,
            now_ms=self.now_ms,
            dense={"w": np.full(2, self.now_ms, np.float32)},
            program=b"program",
            spec_toml="spec = 1",
        )

    def replica(
        self,
        *,
        config: ReplicaConfig = REPLICA_CONFIG,
        table_shard: TableShard = TABLE_SHARD,
        on_applied: Callable[[DeltaBlock], None] = lambda block: None,
    ) -> Replica:
        self.listener = Listener(self, on_applied)
        return Replica(self.store, self.log, table_shard, config=config, listener=self.listener)

    def records(self) -> list[DeltaRecord]:
        """All that the log holds, decoded."""
        found = [decode(record.value) for record in self.log.read(self.log.begin(), 1000, 0.0)]
        assert all(isinstance(record, EpochClaim | DeltaBlock | DenseRef) for record in found)
        return found  # type: ignore[return-value]

    def kinds(self) -> list[Incident]:
        return [kind for kind, _, _ in self.incidents]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, ModelStore(str(tmp_path), "m"))


@pytest.fixture
def table() -> EmbeddingTable:
    return trainer_table(FIDS)


@pytest.fixture
def publisher(bench: Bench, table: EmbeddingTable) -> Publisher:
    """A publisher that has written one base of ``table``."""
    publisher = bench.publisher()
    bench.write_base(publisher, table)
    return publisher

"""A shared log, a store in a folder, and a way to make publishers and replicas on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, DenseRef, decode
from rillet.sync import Incident, Manifest, MemoryLog, ModelStore, Publisher, Replica, SyncConfig
from tests.sync.fakes import SPEC_HASH, WriterLink

CONFIG = SyncConfig(max_block_rows=10, slice_rows=4, fetch_records=5, base_check_interval_s=1.0)


@dataclass
class Bench:
    """One log and one store, with publishers and replicas of model "m"."""

    store: ModelStore
    log: MemoryLog = field(default_factory=MemoryLog)
    incidents: list[tuple[Incident, int, str]] = field(default_factory=list)
    now_ms: int = 0

    def link(self) -> WriterLink:
        return WriterLink(self.log, np.random.default_rng(0))

    def publisher(
        self,
        link: WriterLink | None = None,
        *,
        writer: str = "writer",
        config: SyncConfig = CONFIG,
        state: dict[str, int] | None = None,
    ) -> Publisher:
        return Publisher(
            link or self.link(), self.store, spec_hash=SPEC_HASH, writer=writer, config=config, state=state
        )

    def publish(self, publisher: Publisher, table: EmbeddingTable) -> None:
        publisher.publish(table, now_ms=self.now_ms, newest_event_ms=self.now_ms, newest_ingest_ms=self.now_ms)

    def write_base(self, publisher: Publisher, table: EmbeddingTable) -> Manifest:
        return publisher.write_base(
            table,
            now_ms=self.now_ms,
            dense={"w": np.full(2, self.now_ms, np.float32)},
            program=b"program",
            spec_toml="spec = 1",
        )

    def replica(
        self,
        *,
        config: SyncConfig = CONFIG,
        spec_hash: int | None = SPEC_HASH,
        on_applied: Callable[[DeltaBlock], None] | None = None,
    ) -> Replica:
        return Replica(
            self.store,
            self.log,
            spec_hash=spec_hash,
            config=config,
            on_applied=on_applied,
            on_incident=lambda *incident: self.incidents.append(incident),
        )

    def records(self) -> list[DeltaBlock | DenseRef]:
        """All that the log holds, decoded."""
        found = [decode(record.value) for record in self.log.read(self.log.begin(), 1000, 0.0)]
        assert all(isinstance(record, DeltaBlock | DenseRef) for record in found)
        return found  # type: ignore[return-value]

    def kinds(self) -> list[Incident]:
        return [kind for kind, _, _ in self.incidents]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ModelStore(str(tmp_path), "m"))

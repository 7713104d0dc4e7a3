"""Trainers that crash, hang and come back, a log that loses, delays, doubles and forgets, replicas at any time.

What must hold, whatever the seed: after an acknowledged publication of the newest trainer, a replica that
starts then, from any base, has exactly its rows; and so does, in the end, every replica that lived through it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness
from rillet.sync import (
    FencedError,
    LogUnavailableError,
    MemoryLog,
    ModelStore,
    Publisher,
    PublisherConfig,
    Replica,
    ReplicaConfig,
    TableShard,
)
from tests.bases import write_base
from tests.sync.fakes import DIM, SPEC_HASH, WriterLink, damage, same_rows, trainer_table

PUBLISHER_CONFIG = PublisherConfig(max_block_rows=5, blocks_in_flight=2, keep_bases=2, keep_dense=2)
REPLICA_CONFIG = ReplicaConfig(fetch_records=4, slice_rows=3, max_queued_rows=40, base_check_interval_s=2.0)
TABLE_SHARD = TableShard("sim", SPEC_HASH)
FIDS = 40
STEPS = 120
FATES = ("lost_ack", "partial", "nothing", "late", "doubled")


@dataclass
class Trainer:
    """One life of a trainer."""

    link: WriterLink
    table: EmbeddingTable
    publisher: Publisher


@dataclass
class World:
    """Everything of one run."""

    rng: np.random.Generator
    store: ModelStore
    log: MemoryLog = field(default_factory=MemoryLog)
    now_ms: int = 1_000_000
    lives: int = 0
    zombies: list[Trainer] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    #: table state, publisher state
    checkpoint: tuple[dict[str, np.ndarray], dict[str, int]] | None = None  # type: ignore[type-arg]
    #: a record at rest is damaged, and no base written after it is there yet
    damaged: bool = False
    happened: Counter[str] = field(default_factory=Counter)
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        self.start_trainer()

    def start_trainer(self) -> None:
        self.lives += 1
        # Sometimes too small for the blocks in flight, so that the log says that it is full.
        link = WriterLink(self.log, self.rng, max_queued=1 + self.lives % 3)
        table, state = trainer_table(), None
        if self.checkpoint is not None:
            arrays, state = self.checkpoint
            table = EmbeddingTable.from_state(DIM, table.config, arrays)
        publisher = Publisher(
            link, self.store, TABLE_SHARD, writer=f"life {self.lives}", config=PUBLISHER_CONFIG, state=state
        )
        self.trainer = Trainer(link, table, publisher)

    def train(self, trainer: Trainer) -> None:
        fids = np.unique(self.rng.integers(1, FIDS, self.rng.integers(1, 12)))
        trainer.table.upsert(fids, self.rng.normal(size=(len(fids), DIM)).astype(np.float32))
        if self.rng.random() < 0.3:
            trainer.table.delete(self.rng.integers(1, FIDS, 3))

    def publish(self, trainer: Trainer, dense: bool = False) -> bool:
        weights = {"w": np.array([self.now_ms], np.int64)} if dense else None
        try:
            trainer.publisher.publish(
                trainer.table,
                now_ms=self.now_ms,
                freshness=Freshness(self.now_ms, self.now_ms),
                dense=weights,
            )
        except LogUnavailableError:
            self.happened["failed publication"] += 1
            return False
        return True

    def write_base(self) -> bool:
        try:
            write_base(
                self.trainer.publisher,
                self.store,
                self.trainer.table,
                now_ms=self.now_ms,
                dense={"w": np.array([self.now_ms], np.int64)},
                program=b"program",
                spec_toml="spec",
            )
        except LogUnavailableError:
            self.happened["failed base"] += 1
            return False
        self.damaged = False
        return True

    def new_replica(self) -> Replica:
        replica = Replica(self.store, self.log, TABLE_SHARD, config=REPLICA_CONFIG)
        replica.load()
        return replica

    def step(self) -> None:
        rng = self.rng
        self.now_ms += int(rng.integers(0, 1500))
        what = rng.random()
        if what < 0.30:
            self.train(self.trainer)
        elif what < 0.50:
            if rng.random() < 0.4:
                self.trainer.link.fate = str(rng.choice(FATES))
            if self.publish(self.trainer, dense=rng.random() < 0.2) and not self.damaged:
                self.check_fresh_replica()
        elif what < 0.55:
            if rng.random() < 0.3:
                self.trainer.link.fate = str(rng.choice(FATES))
            if self.write_base():
                self.check_fresh_replica()
        elif what < 0.62:
            self.checkpoint = self.trainer.table.state(), self.trainer.publisher.state()
        elif what < 0.66:
            self.happened["crash"] += 1
            if rng.random() < 0.5:
                self.zombies.append(self.trainer)
            self.start_trainer()
        elif what < 0.74:
            self.move_zombies()
        elif what < 0.77:
            self.trainer.link.deliver_late()
        elif what < 0.79:
            bases = self.store.bases().manifests
            if bases and self.log.begin() < bases[0].next_offset <= self.log.end():
                self.log.truncate(bases[0].next_offset)
                self.happened["truncated"] += 1
        elif what < 0.81 and self.log.end() > self.log.begin():
            damage(self.log, int(rng.integers(self.log.begin(), self.log.end())))
            self.damaged = True
            self.happened["damaged"] += 1
        elif what < 0.84 and self.store.bases().manifests:
            self.replicas.append(self.new_replica())
        else:
            for replica in self.replicas:
                if rng.random() < 0.5:
                    replica.poll(self.now_ms)
                for _ in range(rng.integers(0, 4)):
                    replica.apply_slice()

    def move_zombies(self) -> None:
        for zombie in list(self.zombies):
            self.train(zombie)
            zombie.link.deliver_late()
            if self.rng.random() < 0.5:
                zombie.link.fate = str(self.rng.choice(FATES))
            try:
                self.publish(zombie)
            except FencedError:
                self.happened["fenced"] += 1
                self.zombies.remove(zombie)

    def check_fresh_replica(self) -> None:
        """Only the newest trainer's publication counts: it is fenced in if another one has claimed since."""
        replica = self.new_replica() if self.store.bases().manifests else None
        if replica is not None:
            replica.catch_up(self.now_ms)
            assert replica.ready
            assert same_rows(replica.table, self.trainer.table)

    def settle(self) -> None:
        """The network is good at last: one trainer is left, one base, and everyone looks."""
        for trainer in (*self.zombies, self.trainer):
            trainer.link.deliver_late()
            trainer.link.fate = "ok"
        try:
            self.publish(self.trainer)
        except FencedError:
            self.start_trainer()
        self.train(self.trainer)
        assert self.publish(self.trainer)
        assert self.write_base()
        self.train(self.trainer)
        assert self.publish(self.trainer)
        for _ in range(3):
            self.now_ms += 10_000
            for replica in self.replicas:
                replica.catch_up(self.now_ms)


def run(seed: int, folder: Path) -> World:
    world = World(np.random.default_rng(seed), ModelStore(str(folder), "sim"))
    for _ in range(STEPS):
        try:
            world.step()
        except FencedError:
            # A zombie that was slower to start than its successor came out ahead: the operator starts another.
            world.happened["trainer fenced"] += 1
            world.start_trainer()
    world.settle()
    return world


@pytest.mark.parametrize("seed", range(24))
def test_in_the_end_every_replica_has_the_trainers_rows(seed: int, tmp_path: Path) -> None:
    world = run(seed, tmp_path)
    world.replicas.append(world.new_replica())
    world.replicas[-1].catch_up(world.now_ms)
    for replica in world.replicas:
        assert same_rows(replica.table, world.trainer.table)
        assert not replica.degraded
        assert replica.lag_records == 0

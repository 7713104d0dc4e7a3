"""Trainers that crash, hang and come back, a log that loses, delays, doubles and forgets, replicas at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, DeltaRecord, DenseRef, EpochClaim, Freshness, RecordError, decode
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
from tests.simulation.harness import Simulation
from tests.sync.fakes import DIM, MODEL_HASH, WriterLink, damage, lose, same_rows, trainer_table

PUBLISHER_CONFIG = PublisherConfig(max_block_rows=5, blocks_in_flight=2, keep_bases=2, keep_dense=2)
REPLICA_CONFIG = ReplicaConfig(fetch_records=4, slice_rows=3, max_queued_rows=40, base_check_interval_s=2.0)
TABLE_SHARD = TableShard("sim", MODEL_HASH)
FIDS = 40
FATES = ("lost_ack", "partial", "nothing", "late", "doubled")


@dataclass
class Trainer:
    """One life of a trainer."""

    link: WriterLink
    table: EmbeddingTable
    publisher: Publisher


def followed_in_its_epoch(log: MemoryLog, position: int) -> bool:
    """Whether a later record of the same epoch, which no newer epoch has made stale, shows that this one is missing."""
    records = [decode_if_ours(record.value) for record in log.read(position, log.end() - position, 0.0)]
    if records[0] is None:
        return False
    for record in records[1:]:
        if record is not None and record.epoch > records[0].epoch:
            return False
        if record is not None and record.epoch == records[0].epoch and record.sequence > records[0].sequence:
            return True
    return False


def fids_of(value: bytes) -> list[int] | None:
    """All fids of a block; None for another record."""
    record = decode_if_ours(value)
    return [*record.fids.tolist(), -1, *record.tombstones.tolist()] if isinstance(record, DeltaBlock) else None


def decode_if_ours(value: bytes) -> DeltaRecord | None:
    """The record; None for one that is damaged, or stands where one was lost."""
    try:
        record = decode(value)
    except RecordError:
        return None
    ours = isinstance(record, EpochClaim | DeltaBlock | DenseRef) and record.model == TABLE_SHARD.model
    return record if ours else None  # type: ignore[return-value]


@dataclass
class SyncWorld:
    """A trainer, those that it replaced and that do not know it (zombies), a log, a store and replicas.

    What must hold, whatever the seed: after an acknowledged publication of the newest trainer, a replica that starts
    then, from any base, has exactly its rows, and so has one that follows and misses nothing; in the end, every one.
    """

    simulation: Simulation
    folder: Path
    store: ModelStore = field(init=False)
    log: MemoryLog = field(default_factory=MemoryLog)
    lives: int = 0
    zombies: list[Trainer] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    #: table state, publisher state
    checkpoint: tuple[dict[str, Any], dict[str, int]] | None = None
    #: a record of the log is damaged or lost, and no base written after it is there yet
    damaged: bool = False
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        self.store = ModelStore(str(self.folder), TABLE_SHARD.model)
        self.start_trainer()
        can = self.simulation.can
        can("train", 30, lambda: self.train(self.trainer))
        can("publish", 20, lambda: self.unless_fenced(self.publish_and_check))
        can("base", 5, lambda: self.unless_fenced(self.write_base_and_check))
        can("checkpoint", 7, self.take_checkpoint)
        can("crash", 4, self.crash)
        can("zombies", 8, self.move_zombies)
        can("deliver late", 3, lambda: self.trainer.link.deliver_late())
        can("truncate", 2, self.truncate, when=self.can_truncate)
        can("damage", 2, self.damage, when=lambda: self.log.end() > self.log.begin())
        can("lose", 4, self.lose, when=lambda: self.log.end() > self.log.begin())
        can("new replica", 3, lambda: self.replicas.append(self.new_replica()), when=self.has_base)
        can("replicas", 16, self.move_replicas)

    # -- trainers ------------------------------------------------------------------------------------------

    def start_trainer(self) -> None:
        self.lives += 1
        # Sometimes too small for the blocks in flight, so that the log says that it is full.
        link = WriterLink(self.log, self.simulation.rng, max_queued=1 + self.lives % 3)
        table, state = trainer_table(), None
        if self.checkpoint is not None:
            arrays, state = self.checkpoint
            table = EmbeddingTable.from_state(DIM, table.config, arrays)
        publisher = Publisher(
            link, self.store, TABLE_SHARD, writer=f"life {self.lives}", config=PUBLISHER_CONFIG, state=state
        )
        self.trainer = Trainer(link, table, publisher)

    def train(self, trainer: Trainer) -> None:
        rng = self.simulation.rng
        fids = np.unique(rng.integers(1, FIDS, rng.integers(1, 12)))
        trainer.table.upsert(fids, rng.normal(size=(len(fids), DIM)).astype(np.float32))
        if self.simulation.chance(0.3):
            trainer.table.delete(rng.integers(1, FIDS, 3))

    def take_checkpoint(self) -> None:
        self.checkpoint = self.trainer.table.state(), self.trainer.publisher.state()

    def crash(self) -> None:
        """The trainer is replaced by one from the checkpoint; it may be gone, or only have been taken for gone."""
        if self.simulation.chance(0.5):
            self.zombies.append(self.trainer)
        self.start_trainer()

    def move_zombies(self) -> None:
        for zombie in list(self.zombies):
            self.train(zombie)
            zombie.link.deliver_late()
            self.fault(zombie, 0.5)
            try:
                self.publish(zombie)
            except FencedError:
                self.simulation.happened["fenced"] += 1
                self.zombies.remove(zombie)

    def unless_fenced(self, act: Callable[[], None]) -> None:
        """A zombie that was slower to start than its successor came out ahead: the operator starts another."""
        try:
            act()
        except FencedError:
            self.simulation.happened["trainer fenced"] += 1
            self.start_trainer()

    # -- publications --------------------------------------------------------------------------------------

    def fault(self, trainer: Trainer, probability: float) -> None:
        """Perhaps the next flush goes wrong."""
        if self.simulation.chance(probability):
            trainer.link.fate = str(self.simulation.rng.choice(FATES))

    def publish(self, trainer: Trainer, dense: bool = False) -> bool:
        now_ms = self.simulation.now_ms
        weights = {"w": np.array([now_ms], np.int64)} if dense else None
        try:
            trainer.publisher.publish(trainer.table, now_ms=now_ms, freshness=Freshness(now_ms, now_ms), dense=weights)
        except LogUnavailableError:
            self.simulation.happened["failed publication"] += 1
            return False
        return True

    def write_base(self) -> bool:
        now_ms = self.simulation.now_ms
        dense = {"w": np.array([now_ms], np.int64)}
        try:
            write_base(
                self.trainer.publisher,
                self.store,
                self.trainer.table,
                now_ms=now_ms,
                dense=dense,
                program=b"program",
                spec_toml="spec",
            )
        except LogUnavailableError:
            self.simulation.happened["failed base"] += 1
            return False
        self.damaged = False
        return True

    def publish_and_check(self) -> None:
        self.fault(self.trainer, 0.4)
        if self.publish(self.trainer, dense=self.simulation.chance(0.2)) and not self.damaged:
            self.check()

    def write_base_and_check(self) -> None:
        self.fault(self.trainer, 0.3)
        if self.write_base():
            self.check()

    # -- the log -------------------------------------------------------------------------------------------

    def can_truncate(self) -> bool:
        bases = self.store.bases().manifests
        return bool(bases) and self.log.begin() < bases[0].next_offset <= self.log.end()

    def truncate(self) -> None:
        """Retention forgets what is in the newest base."""
        self.log.truncate(self.store.bases().manifests[0].next_offset)

    def damage(self) -> None:
        position = int(self.simulation.rng.integers(self.log.begin(), self.log.end()))
        (before,) = self.log.read(position, 1, 0.0)
        damage(self.log, position)
        (after,) = self.log.read(position, 1, 0.0)
        if position >= self.known() and fids_of(before.value) != fids_of(after.value):
            # A trainer that restarts publishes again what it finds here, and would not find it.
            damage(self.log, position)
        else:
            self.damaged = True

    def lose(self) -> None:
        """Loses a record whose absence a reader can notice: the loss of an epoch's last record shows nowhere."""
        position = int(self.simulation.rng.integers(self.log.begin(), self.log.end()))
        if position < self.known() and followed_in_its_epoch(self.log, position):
            lose(self.log, position)
            self.damaged = True
            self.simulation.happened["lost"] += 1

    def known(self) -> int:
        """No trainer has still to read what lies below, nor has one that starts from the checkpoint."""
        states = [trainer.publisher.state() for trainer in (self.trainer, *self.zombies)]
        states.append({"position": 0} if self.checkpoint is None else self.checkpoint[1])
        return min(state["position"] for state in states)

    # -- replicas ------------------------------------------------------------------------------------------

    def has_base(self) -> bool:
        return bool(self.store.bases().manifests)

    def new_replica(self) -> Replica:
        replica = Replica(self.store, self.log, TABLE_SHARD, config=REPLICA_CONFIG)
        replica.load()
        return replica

    def move_replicas(self) -> None:
        for replica in self.replicas:
            if self.simulation.chance(0.5):
                replica.poll(self.simulation.now_ms)
            for _ in range(self.simulation.rng.integers(0, 4)):
                replica.apply_slice()

    # -- what must hold ------------------------------------------------------------------------------------

    def check(self) -> None:
        """The newest trainer's publication was acknowledged, and nothing after the newest base is damaged."""
        if not self.has_base():
            return
        replica = self.new_replica()
        replica.catch_up(self.simulation.now_ms)
        assert replica.ready
        assert not replica.degraded
        assert same_rows(replica.table, self.trainer.table)
        if self.replicas:
            follower = self.replicas[int(self.simulation.rng.integers(len(self.replicas)))]
            follower.catch_up(self.simulation.now_ms)
            if not follower.degraded:
                self.simulation.happened["follower checked"] += 1
                assert same_rows(follower.table, self.trainer.table)

    def settle(self) -> None:
        """The network is good at last: one trainer is left, one base, and everyone looks."""
        for trainer in (*self.zombies, self.trainer):
            trainer.link.deliver_late()
            trainer.link.fate = "ok"
        self.unless_fenced(lambda: self.publish(self.trainer))
        self.train(self.trainer)
        assert self.publish(self.trainer)
        assert self.write_base()
        self.train(self.trainer)
        assert self.publish(self.trainer)
        self.replicas.append(self.new_replica())
        for _ in range(3):
            self.simulation.now_ms += 10_000
            for replica in self.replicas:
                replica.catch_up(self.simulation.now_ms)
        for replica in self.replicas:
            assert same_rows(replica.table, self.trainer.table)
            assert not replica.degraded
            assert replica.lag_records == 0

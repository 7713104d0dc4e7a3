"""Publisher and replica over a real broker, and the broker going away between two publications."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.devstack.broker import Broker
from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness
from rillet.sync import (
    FencedError,
    LogUnavailableError,
    ModelStore,
    Publisher,
    PublisherConfig,
    Replica,
    TableShard,
    replica_as_of,
)
from tests.bases import write_base
from tests.sync.fakes import DIM, same_rows, trainer_table

pytestmark = pytest.mark.integration

TABLE_SHARD = TableShard("m", 1)
CONFIG = PublisherConfig(max_block_rows=10, flush_timeout_s=2.0)
FIDS = np.arange(1, 101, dtype=np.int64)


def publish(publisher: Publisher, table: EmbeddingTable) -> None:
    publisher.publish(table, now_ms=0, freshness=Freshness())


def base_of(publisher: Publisher, store: ModelStore, table: EmbeddingTable) -> None:
    write_base(publisher, store, table, now_ms=0, dense={"w": np.ones(2, np.float32)}, program=b"p", spec_toml="")


def change(table: EmbeddingTable, value: float) -> None:
    table.upsert(FIDS[:30], np.full((30, DIM), value, np.float32))


def test_a_replica_follows_over_kafka_and_the_past_can_be_rebuilt(
    broker: str, topics: Callable[..., str], tmp_path: Path
) -> None:
    topic, store, table = topics("deltas"), ModelStore(str(tmp_path), "m"), trainer_table(FIDS)
    with (
        KafkaDeltaLog(broker, topic) as writing,
        KafkaDeltaLog(broker, topic) as rival,
        KafkaDeltaLog(broker, topic) as reading,
    ):
        publisher = Publisher(writing, store, TABLE_SHARD, writer="first", config=CONFIG)
        base_of(publisher, store, table)
        replica = Replica(store, reading, TABLE_SHARD)
        replica.load()
        change(table, 1.0)
        publish(publisher, table)
        moment, then = writing.end(), table.items()[1]
        change(table, 2.0)
        publish(publisher, table)
        replica.catch_up(0, 1.0)
        assert same_rows(replica.table, table)
        assert (replica.degraded, dict(replica.incidents)) == (False, {})

        publish(Publisher(rival, store, TABLE_SHARD, writer="second", config=CONFIG), trainer_table(FIDS))
        with pytest.raises(FencedError, match="second has taken epoch 2"):
            publish(publisher, table)

        past = replica_as_of(store, reading, TABLE_SHARD, moment)
        assert np.array_equal(past.table.items()[1], then)


def test_nothing_is_lost_while_the_broker_is_away(
    broker_process: Broker, topics: Callable[..., str], tmp_path: Path
) -> None:
    topic, store, table = topics("deltas"), ModelStore(str(tmp_path), "m"), trainer_table(FIDS)
    address = broker_process.bootstrap_servers
    with (
        KafkaDeltaLog(address, topic, answer_timeout_s=2.0) as writing,
        KafkaDeltaLog(address, topic, answer_timeout_s=2.0) as reading,
    ):
        publisher = Publisher(writing, store, TABLE_SHARD, writer="w", config=CONFIG)
        base_of(publisher, store, table)
        replica = Replica(store, reading, TABLE_SHARD)
        replica.load()
        replica.catch_up(0, 1.0)
        change(table, 1.0)
        broker_process.stop(kill=True)
        try:
            with pytest.raises(LogUnavailableError, match=topic):
                publish(publisher, table)
            with pytest.raises(LogUnavailableError, match=topic):
                replica.poll(0)
            assert table.touched.pending().tolist() == FIDS[:30].tolist()
        finally:
            broker_process.start()
        deadline = time.monotonic() + 60.0
        while True:
            try:
                publish(publisher, table)
                replica.catch_up(0, 1.0)
                break
            except LogUnavailableError:
                assert time.monotonic() < deadline
        assert same_rows(replica.table, table)
        assert not replica.degraded

"""The model as of a position, whichever base it is rebuilt from."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness
from rillet.sync import (
    BaseNotFoundError,
    CorruptArtifactError,
    LogRecord,
    PublisherConfig,
    Replica,
    ReplicaConfig,
    replica_as_of,
)
from tests.sync.conftest import Bench
from tests.sync.fakes import DIM, TABLE_SHARD, damage, trainer_table

CONFIG = PublisherConfig(max_block_rows=4, keep_bases=100, keep_dense=100)
Moment = tuple[int, tuple[np.ndarray, np.ndarray], list[float]]  # type: ignore[type-arg]


def history(bench: Bench, steps: int = 24) -> list[Moment]:
    """Positions after publications, with the rows and dense weights of each; some bases between."""
    rng = np.random.default_rng(3)
    table, publisher = trainer_table(), bench.publisher(config=CONFIG)
    moments: list[Moment] = []
    weights = [0.0, 0.0]
    for step in range(steps):
        fids = np.unique(rng.integers(1, 30, 8))
        table.upsert(fids, rng.normal(size=(len(fids), DIM)).astype(np.float32))
        table.delete(rng.integers(1, 30, 2))
        bench.now_ms = step
        if step % 6 == 0:
            bench.write_base(publisher, table)
            weights = [float(step)] * 2
        else:
            dense = None
            if step % 4 == 1:
                weights = [step + 0.5] * 2
                dense = {"w": np.array(weights, np.float32)}
            publisher.publish(table, now_ms=step, freshness=Freshness(step, step), dense=dense)
        moments.append((bench.log.end(), table.items(), list(weights)))
    return moments


def as_of(bench: Bench, position: int) -> Replica:
    return replica_as_of(bench.store, bench.log, TABLE_SHARD, position, config=ReplicaConfig(fetch_records=3))


def rows_equal(table: EmbeddingTable, rows: tuple[np.ndarray, np.ndarray]) -> bool:  # type: ignore[type-arg]
    found = table.items()
    return np.array_equal(found[0], rows[0]) and np.array_equal(found[1], rows[1])


def test_every_publication_can_be_gone_back_to(bench: Bench) -> None:
    for position, rows, weights in history(bench):
        replica = as_of(bench, position)
        assert rows_equal(replica.table, rows)
        assert replica.position == position
        assert replica.dense["w"].tolist() == weights
        assert replica.ready


def test_the_newest_base_at_or_before_the_position_is_taken(bench: Bench) -> None:
    history(bench)
    offsets = [manifest.next_offset for manifest in reversed(bench.store.bases().manifests)]
    for older, newer in pairwise(offsets):
        for position, expected in ((newer - 1, older), (newer, newer), (newer + 1, newer)):
            replica = as_of(bench, position)
            assert replica.base.manifest.next_offset == expected


def test_an_older_base_gives_the_same_rows(bench: Bench) -> None:
    moments = history(bench)
    position, rows, _ = moments[-1]
    newest = bench.store.bases().manifests[0]
    (bench.folder / "m" / newest.name / "manifest.json").write_bytes(b"")
    replica = as_of(bench, position)
    assert replica.base.manifest.version < newest.version
    assert rows_equal(replica.table, rows)


def test_a_replica_of_the_past_stays_there(bench: Bench) -> None:
    position, rows, _ = history(bench)[10]
    replica = as_of(bench, position)
    replica.catch_up(10**9)
    assert rows_equal(replica.table, rows)


def test_before_the_first_base_there_is_nothing(bench: Bench) -> None:
    history(bench, 3)
    first = bench.store.bases().manifests[-1].next_offset
    with pytest.raises(BaseNotFoundError, match=f"next offset {first}"):
        as_of(bench, first - 1)


@pytest.mark.parametrize("position", [-1, 10_000])
def test_a_position_that_the_log_never_had_is_refused(bench: Bench, position: int) -> None:
    history(bench, 3)
    with pytest.raises(BaseNotFoundError, match=f"position {position} is not in the delta log"):
        as_of(bench, position)


def test_a_past_that_cannot_be_rebuilt_exactly_is_an_error(bench: Bench) -> None:
    moments = history(bench, 6)
    damage(bench.log, moments[2][0] - 1)
    assert as_of(bench, moments[1][0]).ready
    with pytest.raises(CorruptArtifactError, match="cannot be rebuilt as of"):
        as_of(bench, moments[3][0])


def test_a_past_with_a_record_missing_is_an_error(bench: Bench) -> None:
    moments = history(bench, 6)
    lost, after = moments[2][0] - 1, bench.log._records[moments[2][0] :]
    moved = [LogRecord(record.position - 1, record.key, record.value) for record in after]
    bench.log._records[lost:] = moved
    bench.log._end -= 1
    assert as_of(bench, moments[1][0]).ready
    with pytest.raises(CorruptArtifactError, match="gap at"):
        as_of(bench, moments[3][0] - 1)

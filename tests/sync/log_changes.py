"""What tests do to a table, and to the log behind a replica's back."""

from __future__ import annotations

import numpy as np

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, decode_as
from rillet.sync import MemoryLog
from tests.sync.conftest import Bench
from tests.sync.fakes import DIM


def change(table: EmbeddingTable, *fids: int, value: float = 1.0) -> None:
    table.upsert(np.array(fids, np.int64), np.full((len(fids), DIM), value, np.float32))


def remove(log: MemoryLog, position: int) -> None:
    """A record is lost from the log: the positions of the others stay."""
    del log._records[position - log.begin()]
    log.read = lambda at, count, timeout_s: [r for r in log._records if r.position >= at][:count]  # type: ignore[method-assign]


def append(bench: Bench, value: bytes) -> None:
    bench.log.append(b"k", value)
    bench.log.commit(0)


def newest_block(bench: Bench) -> DeltaBlock:
    return decode_as(DeltaBlock, bench.log._records[-1].value)

"""The queue between reading and applying: in order, with an exact count of rows."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.sync.blocks import build_block
from rillet.sync.updates import BlockUpdate, PositionUpdate, UpdateQueue
from tests.sync.fakes import DIM, TABLE_SHARD


def block_update(rows: int, tombstones: int) -> BlockUpdate:
    fids = np.arange(1, rows + tombstones + 1)
    block = build_block(
        TABLE_SHARD,
        epoch=1,
        sequence=1,
        dim=DIM,
        fids=fids[:rows],
        rows=np.zeros((rows, DIM), np.float32),
        tombstones=fids[rows:],
    )
    return BlockUpdate(block, 1, is_new=True)


def test_rows_count_from_when_they_are_put_until_they_are_applied() -> None:
    queue = UpdateQueue()
    queue.put(block_update(3, 2))
    queue.put(PositionUpdate(1))
    assert (len(queue), queue.rows) == (2, 5)
    queue.rows_applied(4)
    assert (len(queue), queue.rows) == (2, 1)
    queue.rows_applied(1)
    queue.remove_first()
    assert (len(queue), queue.rows) == (1, 0)


def test_updates_come_out_in_the_order_in_which_they_went_in() -> None:
    queue = UpdateQueue()
    for position in range(3):
        queue.put(PositionUpdate(position))
    for position in range(3):
        assert queue.first() == PositionUpdate(position)
        queue.remove_first()
    with pytest.raises(IndexError):
        queue.first()

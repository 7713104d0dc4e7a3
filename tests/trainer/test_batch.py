from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import Cross, ExampleBlock, LabelKind, slot_of
from rillet.trainer import Batch, BatchAssembler
from rillet.trainer.batch import row_alone
from tests.trainer.blocks import RAGGED, make_block

SLOTS, TASKS = len(RAGGED.slots), len(RAGGED.tasks)


def _blocks(seed: int, sizes: list[int]) -> list[ExampleBlock]:
    rng = np.random.default_rng(seed)
    return [make_block(rng, size, served=bool(i % 2)) for i, size in enumerate(sizes)]


def _drain(assembler: BatchAssembler, batch_size: int) -> list[Batch]:
    batches = []
    while (batch := assembler.take(batch_size)) is not None:
        batches.append(batch)
    if (rest := assembler.take(batch_size, partial=True)) is not None:
        batches.append(rest)
    return batches


def _flat(batches: list[Batch], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(batch, name)).reshape(-1) for batch in batches])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 3))
def test_batches_hold_every_row_once_in_order_whatever_the_cuts(sizes: list[int], batch_size: int, seed: int) -> None:
    blocks = _blocks(seed, sizes)
    assembler = BatchAssembler(RAGGED)
    for offset, block in enumerate(blocks):
        assembler.add(0, offset, block, 0)
    batches = _drain(assembler, batch_size)
    total = sum(sizes)
    assert [len(b) for b in batches] == [batch_size] * (total // batch_size) + [total % batch_size] * (
        total % batch_size > 0
    )
    if not total:
        return
    for place, name in enumerate(("fids", "lengths")):
        np.testing.assert_array_equal(_flat(batches, name), np.concatenate([b.row_fids()[place] for b in blocks]))
    for name in ("dense", "labels", "mask", "sampling_rate", "label_kind", "feature_time_ms"):
        np.testing.assert_array_equal(_flat(batches, name), np.concatenate([getattr(b, name) for b in blocks]))
    served = np.concatenate(
        [np.full(len(b) * TASKS, np.nan, np.float32) if b.served_logits is None else b.served_logits for b in blocks]
    )
    np.testing.assert_array_equal(_flat(batches, "served_logits"), served)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 20))
def test_going_on_from_a_batch_position_gives_the_same_batches(sizes: list[int], batch_size: int, stop: int) -> None:
    blocks = _blocks(7, sizes)
    assembler = BatchAssembler(RAGGED)
    for offset, block in enumerate(blocks):
        assembler.add(0, offset, block, 0)
    batches = _drain(assembler, batch_size)
    if not batches:
        return
    stop %= len(batches)
    offset, row = batches[stop].positions[0]
    resumed = BatchAssembler(RAGGED)
    for later in range(offset, len(blocks)):
        resumed.add(0, later, blocks[later], 0, skip_rows=row if later == offset else 0)
    again = _drain(resumed, batch_size)
    assert [len(b) for b in again] == [len(b) for b in batches[stop + 1 :]]
    for left, right in zip(again, batches[stop + 1 :], strict=True):
        np.testing.assert_array_equal(left.fids, right.fids)
        np.testing.assert_array_equal(left.labels, right.labels)
        assert left.positions == right.positions


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 9))
def test_crosses_follow_the_slots_of_each_row_whatever_the_cuts(sizes: list[int], batch_size: int) -> None:
    crosses = (Cross("user_genres", 40, ("user", "genres"), 2), Cross("user_film", 41, ("user", "film"), 1))
    spec = replace(RAGGED, crosses=crosses)
    blocks = _blocks(5, sizes)
    assembler = BatchAssembler(spec)
    for offset, block in enumerate(blocks):
        assembler.add(0, offset, block, 0)
    batches = _drain(assembler, batch_size)
    if not batches:
        return
    lengths = _flat(batches, "lengths").reshape(-1, spec.segments)
    logged = np.concatenate([block.row_fids()[1] for block in blocks]).reshape(-1, SLOTS)
    np.testing.assert_array_equal(lengths[:, :SLOTS], logged)
    np.testing.assert_array_equal(lengths[:, SLOTS:], np.stack([np.minimum(logged[:, 2], 2), logged[:, 0]], axis=1))
    fids = _flat(batches, "fids")
    expected = np.repeat(np.tile([1, 16, 18, 40, 41], len(lengths)), lengths.reshape(-1))
    np.testing.assert_array_equal(slot_of(fids), expected)
    np.testing.assert_array_equal(fids[slot_of(fids) < 40], np.concatenate([block.row_fids()[0] for block in blocks]))


def test_positions_follow_each_partition_and_pass_refused_records() -> None:
    first, second = _blocks(1, [3, 4])
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 10, first, 0)
    assembler.add(0, 11, None, 0)
    assembler.add(1, 40, second, 0)
    batch = assembler.take(5)
    assert batch is not None
    assert batch.positions == {0: (12, 0), 1: (40, 2)}
    assembler.add(0, 12, None, 0)
    rest = assembler.take(5, partial=True)
    assert rest is not None
    assert rest.positions == {1: (41, 0), 0: (13, 0)}


def test_exposure_tells_the_rows_whose_impression_may_give_two() -> None:
    block = replace(make_block(np.random.default_rng(0), 5), label_kind=np.arange(5, dtype=np.uint8))
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 0, block, 0)
    batch = assembler.take(5)
    assert batch is not None
    found = {LabelKind(kind).name for kind in batch.label_kind[batch.exposure].tolist()}
    assert found == {"CORRECTION", "PROVISIONAL"}
    assert [LabelKind(kind).name for kind in batch.label_kind[batch.late].tolist()] == ["LATE_POSITIVE"]


def test_records_without_rows_move_the_position_without_a_batch() -> None:
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 3, None, 0)
    assert assembler.take(5, partial=True) is None
    assert assembler.drain_empty() == {0: (4, 0)}


def test_blocks_with_and_without_lengths_share_a_batch() -> None:
    ragged = make_block(np.random.default_rng(0), 2)
    plain = replace(make_block(np.random.default_rng(1), 1), item_fids=ragged.item_fids[:2], item_lengths=None)
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 0, ragged, 0)
    assembler.add(0, 1, plain, 0)
    batch = assembler.take(3)
    assert batch is not None
    assert batch.lengths is not None
    np.testing.assert_array_equal(batch.lengths, [*ragged.row_fids()[1].tolist(), 1, 1, 1])
    assert int(batch.lengths.sum()) == len(batch.fids)


def _taken(block: ExampleBlock, rows: int) -> Batch:
    assembler = BatchAssembler(RAGGED)
    assembler.add(0, 0, block, 0)
    batch = assembler.take(rows)
    assert batch is not None
    return batch


@pytest.mark.parametrize("ragged", [True, False])
def test_chosen_rows_are_those_of_a_batch_without_the_others(ragged: bool) -> None:
    (block,) = _blocks(3, [10])
    if not ragged:
        block = replace(block, item_lengths=None, item_fids=np.arange(10 * (SLOTS - 1)))
    batch = _taken(block, 10)
    chosen = np.arange(10) % 3 == 1
    selected = batch.select(chosen)
    alone = [_taken(row_alone(block, row), 1) for row in (1, 4, 7)]
    for name in ("fids", "dense", "labels", "mask", "sampling_rate", "label_kind", "served_logits", "feature_time_ms"):
        np.testing.assert_array_equal(_flat([selected], name), _flat(alone, name), err_msg=name)
    for name in ("action_time_ms", "feature_ingest_ms", "action_ingest_ms"):
        np.testing.assert_array_equal(getattr(selected, name), getattr(block, name)[chosen], err_msg=name)
    if ragged:
        np.testing.assert_array_equal(_flat([selected], "lengths"), _flat(alone, "lengths"))
    assert selected.positions == batch.positions


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 7), st.integers(0, 4), st.data())
def test_each_row_knows_where_it_was_read(sizes: list[int], batch_size: int, skipped: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(4)
    blocks = []
    for offset, size in enumerate(sizes):
        ids = [f"{offset}.{row}" for row in range(size)]
        block = make_block(rng, size)
        contexts = {"request_ids": ids, "request_index": np.arange(size, dtype=np.int32)}
        blocks.append(replace(block, context_fids=block.context_fids[block.request_index], **contexts))
    assembler = BatchAssembler(RAGGED)
    for offset, block in enumerate(blocks):
        assembler.add(7, 100 + offset, block, 0, skip_rows=0 if offset else skipped)
    expected = [(offset, row) for offset, size in enumerate(sizes) for row in range(size)]
    expected = [place for place in expected if place >= (0, skipped)]
    for batch in _drain(assembler, batch_size):
        places, expected = expected[: len(batch)], expected[len(batch) :]
        chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))))
        selected = batch.select(chosen)
        for index, (offset, row) in enumerate(place for place, kept in zip(places, chosen, strict=True) if kept):
            origin = selected.origin(index)
            assert origin[:3] == (7, 100 + offset, row)
            assert origin.block.request_ids == [f"{offset}.{row}"]
            RAGGED.check_block(origin.block)
    assert not expected

"""The table as its users see it: lookups, upserts, deletes, stamps, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable, TableConfig, TableInputError
from rillet.schemas import RilletError, make_fids
from tests.embeddings.twins import saved_rows

DIM = 4


def make(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(DIM, TableConfig(chunk_rows=16, **settings))


def test_padding_and_unknown_fids_have_no_row_and_read_as_zeros() -> None:
    table = make()
    table.find_or_insert(np.array([1]), 0)
    fids = np.array([0, 1, 2])
    assert table.find(fids).tolist() == [-1, 0, -1]
    assert not table.values(fids)[[0, 2]].any()
    assert table.values(fids)[1].any()


def test_unknown_reads_are_counted_and_padding_is_not() -> None:
    table = make()
    table.find_or_insert(np.array([1]), 0)
    table.find(np.array([0, 1, 2, 3]))
    table.values(np.array([4, 0]))
    assert table.unknown_reads == 3


def test_padding_is_never_inserted() -> None:
    table = make()
    assert table.find_or_insert(np.array([0, 0]), 0).tolist() == [-1, -1]
    assert len(table) == 0


def test_upsert_sets_embeddings_and_keeps_optimiser_slots() -> None:
    table = make()
    fids = np.array([1, 2])
    table.apply_gradients(table.find_or_insert(fids, 0), None, np.ones((2, DIM), np.float32), 0)
    slots = saved_rows(table)[:, DIM:]
    values = np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM)
    table.upsert(np.array([2, 3, 1]), values)
    assert np.array_equal(table.items()[1], values[[2, 0, 1]])
    assert np.array_equal(saved_rows(table)[:2, DIM:], slots)


def test_of_a_fid_upserted_twice_the_last_stays() -> None:
    table = make()
    table.upsert(np.array([5, 5]), np.array([[1] * DIM, [2] * DIM], np.float32))
    assert table.values(np.array([5])).tolist() == [[2] * DIM]


def test_delete_removes_what_is_there_and_says_how_many() -> None:
    table = make()
    table.find_or_insert(np.arange(1, 11), 0)
    assert table.delete(np.array([3, 3, 0, 99, 4])) == 2
    assert len(table) == 8
    assert table.items()[0].tolist() == [1, 2, 5, 6, 7, 8, 9, 10]
    assert not table.values(np.array([3, 4])).any()


def test_items_are_sorted_by_fid() -> None:
    table = make()
    fids = make_fids(9, np.random.default_rng(0).permutation(100))
    values = np.arange(100 * DIM, dtype=np.float32).reshape(100, DIM)
    table.upsert(fids, values)
    order = np.argsort(fids)
    assert np.array_equal(table.items()[0], fids[order])
    assert np.array_equal(table.items()[1], values[order])


def test_last_seen_is_kept_by_the_second_and_only_goes_up() -> None:
    table = make()
    table.find_or_insert(np.array([1, 2]), 1_700_000_000_999)
    table.find_or_insert(np.array([2]), 1_700_000_005_000)
    table.find_or_insert(np.array([2]), 3_000)
    table.find(np.array([1]))
    assert table.last_seen(np.array([1, 2, 3])).tolist() == [1_700_000_000_000, 1_700_000_005_000, -1]


def test_read_only_and_strided_fids_are_accepted() -> None:
    table = make()
    frozen = np.frombuffer(np.array([1, 2, 3, 4]).tobytes(), np.int64)
    assert table.find_or_insert(frozen, 0).tolist() == [0, 1, 2, 3]
    assert table.find(frozen[::2]).tolist() == [0, 2]
    lengths = np.frombuffer(np.array([4], np.uint16).tobytes(), np.uint16)
    grad = np.frombuffer(np.ones(DIM, np.float32).tobytes(), np.float32).reshape(1, DIM)
    assert table.apply_gradients(table.find(frozen), lengths, grad, 0) == 4


def test_empty_arrays_are_answered_with_empty_arrays() -> None:
    table = make()
    none = np.empty(0, np.int64)
    assert table.find(none).shape == (0,)
    assert table.find_or_insert(none, 0).shape == (0,)
    assert table.gather_pooled(none, None).shape == (0, DIM)
    assert not table.gather_pooled(none, np.zeros(2, np.uint16)).any()
    assert table.apply_gradients(none, None, np.empty((0, DIM), np.float32), 0) == 0
    assert table.delete(none) == 0
    table.upsert(none, np.empty((0, DIM), np.float32))
    assert table.items()[1].shape == (0, DIM)


@pytest.mark.parametrize("call", ["find", "values", "delete", "last_seen"])
@pytest.mark.parametrize(
    ("fids", "message"),
    [
        (np.array([1, -5]), "value 1 is -5"),
        (np.array([1, 2], np.int32), r"found int32\[2\]"),
        (np.array([1, 2], np.uint64), r"found uint64\[2\]"),
        (np.array([[1, 2]]), r"found int64\[1, 2\]"),
        ([1, 2], "found list"),
    ],
)
def test_fids_that_are_none_are_refused(call: str, fids: Any, message: str) -> None:
    with pytest.raises(TableInputError, match=message):
        getattr(make(), call)(fids)


def test_a_refused_insert_leaves_the_table_as_it_was() -> None:
    table = make()
    with pytest.raises(TableInputError, match="reserved bit"):
        table.find_or_insert(np.array([1, 2, -1]), 0)
    with pytest.raises(TableInputError, match="1970"):
        table.find_or_insert(np.array([1]), -1000)
    with pytest.raises(TableInputError, match="milliseconds"):
        table.find_or_insert(np.array([1]), 1_700_000_000_000_000)
    with pytest.raises(TableInputError, match="padding"):
        table.upsert(np.array([1, 0]), np.zeros((2, DIM), np.float32))
    with pytest.raises(TableInputError, match=r"expected float32\[1, 4\], found float64"):
        table.upsert(np.array([1]), np.zeros((1, DIM)))
    assert len(table) == 0


@pytest.mark.parametrize(
    ("rows", "lengths", "message"),
    [
        ([0, 2], None, r"outside -1..1"),
        ([0, -2], None, r"outside -1..1"),
        ([0, 1], [1], "sum to 1, rows has 2"),
        ([0, 1], [1, 1, 1], "sum to 3, rows has 2"),
    ],
)
def test_rows_and_lengths_that_would_read_elsewhere_are_refused(rows: Any, lengths: Any, message: str) -> None:
    table = make()
    table.find_or_insert(np.array([1, 2]), 0)
    packed = None if lengths is None else np.array(lengths, np.uint16)
    segments = len(rows) if packed is None else len(packed)
    with pytest.raises(TableInputError, match=message):
        table.gather_pooled(np.array(rows), packed)
    with pytest.raises(TableInputError, match=message):
        table.apply_gradients(np.array(rows), packed, np.zeros((segments, DIM), np.float32), 0)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((1, DIM), np.float32),
        np.empty((2, DIM), np.float64),
        np.empty((DIM, 2), np.float32).T,
        np.frombuffer(bytes(8 * DIM), np.float32).reshape(2, DIM),
    ],
)
def test_an_out_that_cannot_be_written_is_refused(out: np.ndarray) -> None:
    table = make()
    rows = table.find_or_insert(np.array([1, 2]), 0)
    with pytest.raises(TableInputError, match="out: expected"):
        table.gather_pooled(rows, None, out)


def test_lengths_of_another_dtype_are_refused() -> None:
    table = make()
    rows = table.find_or_insert(np.array([1, 2]), 0)
    with pytest.raises(TableInputError, match="lengths: expected"):
        table.gather_pooled(rows, np.array([1, 1]))  # type: ignore[arg-type]


def test_a_gradient_of_the_wrong_shape_is_refused() -> None:
    table = make()
    rows = table.find_or_insert(np.array([1, 2]), 0)
    with pytest.raises(TableInputError, match=r"grad: expected float32\[2, 4\], found float32\[2, 3\]"):
        table.apply_gradients(rows, None, np.zeros((2, 3), np.float32), 0)


def test_a_dim_below_one_is_refused() -> None:
    with pytest.raises(TableInputError, match="dim: 0"):
        EmbeddingTable(0, TableConfig())


def test_the_errors_are_the_projects_own() -> None:
    with pytest.raises(RilletError):
        make().find(np.array([-1]))


def test_an_insert_that_finds_no_memory_leaves_no_rowless_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    table = make()
    table.find_or_insert(np.arange(1, 11), 0)

    def no_memory(row_end: int) -> None:
        raise MemoryError

    monkeypatch.setattr(table._slabs, "ensure", no_memory)
    with pytest.raises(MemoryError):
        table.find_or_insert(np.arange(5, 100), 0)
    monkeypatch.undo()
    assert table.items()[0].tolist() == list(range(1, 11))
    table.find_or_insert(np.arange(1, 100), 0)
    assert table.items()[0].tolist() == list(range(1, 100))


def test_what_was_inserted_last_is_taken_back_as_if_it_had_never_been_there() -> None:
    table = EmbeddingTable(DIM, TableConfig(initial_capacity=64), track_touched=True)
    table.find_or_insert(np.array([1, 2]), 5_000)
    table.find_or_insert(np.array([2, 3, 4, 3, 0]), 9_000)
    assert table.take_back() == 2
    assert table.items()[0].tolist() == [1, 2]
    assert table.touched.pending().tolist() == [1, 2]
    assert table.take_back() == 0
    rows = table.find_or_insert(np.array([3]), 9_000)
    table.apply_gradients(rows, None, np.ones((1, DIM), np.float32), 0)
    assert table.take_back() == 0
    assert table.touched.pending().tolist() == [1, 2, 3]

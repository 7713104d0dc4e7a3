"""Initialiser and gathers against their NumPy twins, over several chunks."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import make_fids
from tests.embeddings import twins

DIMS = [1, 2, 8, 17]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_new_row_is_its_fids_hash(dim: int, seed: int) -> None:
    config = TableConfig(seed=seed, init_scale=0.25, chunk_rows=8)
    table = EmbeddingTable(dim, config)
    fids = make_fids(3, np.arange(30))
    table.find_or_insert(fids, 0)
    expected = np.stack([twins.initial_row(fid, dim, config) for fid in fids.tolist()])
    assert np.array_equal(table.values(fids), expected)


def test_initial_values_are_uniform_in_the_scale() -> None:
    table = EmbeddingTable(9, TableConfig(init_scale=0.5))
    fids = make_fids(1, np.arange(4000))
    table.find_or_insert(fids, 0)
    values = table.values(fids)
    assert not values[:, 0].any()
    rest = values[:, 1:]
    assert rest.min() >= -0.5
    assert rest.max() < 0.5
    assert abs(rest.mean()) < 0.01
    assert abs(rest.std() - 1 / np.sqrt(12)) < 0.01
    assert len(np.unique(rest)) > 0.99 * rest.size


def test_another_seed_gives_other_rows() -> None:
    fids = make_fids(1, np.arange(50))
    rows = []
    for seed in (1, 2):
        table = EmbeddingTable(5, TableConfig(seed=seed))
        table.find_or_insert(fids, 0)
        rows.append(table.values(fids)[:, 1:])
    assert (rows[0] != rows[1]).all(axis=1).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("optimizer", ["none", "adagrad", "lazy_adam"])
def test_pooling_is_the_mean_with_unknown_rows_as_zeros(dim: int, optimizer: str) -> None:
    rng = np.random.default_rng(dim)
    table = EmbeddingTable(dim, TableConfig(optimizer=optimizer, chunk_rows=16))
    known = np.arange(1, 101)
    values = rng.standard_normal((100, dim)).astype(np.float32)
    table.upsert(known, values)
    lengths = rng.integers(0, 5, 200).astype(np.uint16)
    fids = rng.integers(0, 131, int(lengths.sum()))
    rows = table.find(fids)
    plain = np.where(((fids > 0) & (fids <= 100))[:, None], values[np.clip(fids, 1, 100) - 1], 0).astype(np.float32)
    assert np.array_equal(table.gather_pooled(rows, None), plain)
    assert np.array_equal(table.gather_pooled(rows, np.ones(len(rows), np.uint16)), plain)
    np.testing.assert_allclose(table.gather_pooled(rows, lengths), twins.pooled(plain, lengths), atol=1e-6)


def test_out_is_filled_and_returned() -> None:
    table = EmbeddingTable(3, TableConfig())
    rows = table.find_or_insert(np.array([4, 5, 0]), 0)
    out = np.full((3, 3), np.nan, np.float32)
    assert table.gather_pooled(rows, None, out) is out
    assert np.array_equal(out, table.gather_pooled(rows, None))
    segments = np.full((2, 3), np.nan, np.float32)
    table.gather_pooled(rows, np.array([3, 0], np.uint16), segments)
    assert not np.isnan(segments).any()


def test_a_row_does_not_move_when_the_table_grows() -> None:
    table = EmbeddingTable(4, TableConfig(chunk_rows=64, initial_capacity=1))
    first = table.find_or_insert(np.arange(1, 11), 0)
    addresses = table._slabs.rows_at.copy()
    before = table.values(np.arange(1, 11))
    table.find_or_insert(np.arange(11, 20_011), 0)
    assert np.array_equal(table.find(np.arange(1, 11)), first)
    assert np.array_equal(table._slabs.rows_at[: len(addresses)], addresses)
    assert np.array_equal(table.values(np.arange(1, 11)), before)

"""A snapshot is of the moment at which it began, bit for bit, whatever happens to the table while it is taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable, TableConfig, TablePart, TableSnapshot, snapshot
from tests.embeddings.twins import OPTIMIZERS, STEP_MS

DIM = 6

Columns = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small table has many parts, and copies fill many blocks."""
    monkeypatch.setattr(snapshot, "PART_ROWS", 8)
    monkeypatch.setattr(snapshot, "_BLOCK_ROWS", 64)


def _table(optimizer: str = "adagrad", capacity: int = 1) -> EmbeddingTable:
    config = TableConfig(chunk_rows=64, initial_capacity=capacity, **OPTIMIZERS[optimizer])
    return EmbeddingTable(DIM, config, track_touched=True)


def _copy(table: EmbeddingTable) -> Columns:
    """All of a table at once, by NumPy alone: by fid, what a snapshot has to give."""
    fids, _ = table.items()
    slabs = table._slabs
    rows = np.array(
        [slabs._rows[row >> slabs.shift][row & (slabs.chunk_rows - 1)] for row in table.find(fids).tolist()], np.float32
    ).reshape(len(fids), slabs.width)
    return {
        "fids": fids,
        "rows": rows,
        "seen_s": table.last_seen(fids) // 1000,
        "clock": table._optimizer.clock().copy(),
        "touched": table.touched.pending(),
    }


def _by_fid(taken: TableSnapshot, parts: Sequence[TablePart]) -> Columns:
    fids = np.concatenate([part.fids for part in parts])
    order = np.argsort(fids)
    rows = np.concatenate([part.rows for part in parts])
    seen_s = np.concatenate([part.seen_s for part in parts])
    header = taken.header()
    return {
        "fids": fids[order],
        "rows": rows[order],
        "seen_s": seen_s[order],
        "clock": header["clock"],
        "touched": header["touched"],
    }


def _assert_same(found: Columns, expected: Columns) -> None:
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def _rest(taken: TableSnapshot) -> list[TablePart]:
    return list(iter(taken.take, None))


class _World:
    """A table to which everything happens that can, with snapshots that are begun, taken and given up meanwhile."""

    def __init__(self, seed: int, optimizer: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.table = _table(optimizer, capacity=int(self.rng.choice([1, 20_000])))
        self.now_ms = 1_000_000
        self.open: list[tuple[TableSnapshot, list[TablePart], Columns]] = []
        self.compared = 0

    def fids(self, count: int) -> np.ndarray:
        return self.rng.integers(0, 400, count)

    def step(self) -> None:
        """Looked up and stepped on, taken back, or left at the look-up."""
        self.now_ms += int(self.rng.choice([0, 1_000, STEP_MS]))
        rows = self.table.find_or_insert(self.fids(60), self.now_ms)
        end = self.rng.random()
        if end < 0.1:
            if self.rng.random() < 0.3:
                self.begin()
            self.table.take_back()
        elif end < 0.9 and self.table.config.optimizer != "none":
            if self.rng.random() < 0.2:
                self.begin()
            grad = self.rng.standard_normal((30, DIM)).astype(np.float32)
            self.table.apply_gradients(rows, np.full(30, 2, np.uint16), grad, self.now_ms)

    def upsert(self) -> None:
        fids = self.fids(20) + 1
        self.table.upsert(fids, self.rng.standard_normal((20, DIM)).astype(np.float32), self.now_ms)

    def expire(self) -> None:
        self.table.delete(self.fids(int(self.rng.integers(1, 80))))

    def grow(self) -> None:
        """So many at once that segments of the map split and its directory doubles."""
        self.table.find_or_insert(self.rng.integers(1, 40_000, 3_000), self.now_ms)

    def publish(self) -> None:
        self.table.touched.take()
        if self.rng.random() < 0.5:
            self.table.touched.acknowledge()
        else:
            self.table.touched.put_back()

    def begin(self) -> None:
        if len(self.open) < 3:
            self.open.append((self.table.snapshot(), [], _copy(self.table)))

    def take(self) -> None:
        for taken, parts, expected in list(self.open):
            for _ in range(int(self.rng.integers(0, 60))):
                part = taken.take()
                if part is None:
                    self.open.remove((taken, parts, expected))
                    assert sum(len(part.fids) for part in parts) == taken.count
                    _assert_same(_by_fid(taken, parts), expected)
                    self.compared += 1
                    break
                parts.append(part)

    def give_up(self) -> None:
        if self.open and self.rng.random() < 0.2:
            self.open.pop()[0].close()

    def run(self, moves: int) -> None:
        happenings = [self.step, self.upsert, self.expire, self.grow, self.publish, self.begin, self.take, self.give_up]
        shares = np.array([8, 2, 3, 0.2, 2, 2, 4, 1])
        for move in self.rng.choice(len(happenings), moves, p=shares / shares.sum()):
            happenings[move]()
        for taken, parts, expected in self.open:
            parts += _rest(taken)
            _assert_same(_by_fid(taken, parts), expected)
            self.compared += 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_copy_made_at_its_beginning(seed: int, optimizer: str) -> None:
    world = _World(seed, optimizer)
    world.run(120)
    assert world.compared > 1
    assert world.table._snapshots == []


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(100, 120))
def test_it_is_a_copy_made_at_its_beginning_many_seeds(seed: int) -> None:
    world = _World(seed, list(OPTIMIZERS)[seed % len(OPTIMIZERS)])
    world.run(400)
    assert world.compared > 3


def test_a_row_that_is_given_out_again_is_told_once_with_the_fid_that_it_had() -> None:
    table = _table()
    rows = table.find_or_insert(np.arange(1, 41), 5_000)
    expected = _copy(table)
    taken = table.snapshot()
    table.delete(np.arange(1, 41))
    assert set(table.find_or_insert(np.arange(101, 141), 9_000).tolist()) == set(rows.tolist())
    table.find_or_insert(np.arange(1, 41), 9_000)
    _assert_same(_by_fid(taken, _rest(taken)), expected)


def test_parts_are_in_the_order_of_a_state_and_restore_the_table_of_the_moment() -> None:
    table = _table()
    table.find_or_insert(np.arange(1, 500), 5_000)
    expected = table.state()
    taken = table.snapshot()
    table.apply_gradients(table.find(np.arange(1, 300)), None, np.ones((299, DIM), np.float32), 6_000)
    parts = [part.ordered() for part in _rest(taken)]
    assert len(parts) > 30
    assert np.array_equal(np.concatenate([part.fids for part in parts]), expected["fids"])
    assert np.array_equal(np.concatenate([part.rows for part in parts]), expected["rows"])


def test_rows_without_slots_are_the_embeddings() -> None:
    table = _table()
    table.find_or_insert(np.arange(1, 100), 5_000)
    fids, values = table.items()
    taken = table.snapshot(slots=False)
    table.upsert(np.arange(1, 100), np.zeros((99, DIM), np.float32))
    found = _by_fid(taken, _rest(taken))
    assert np.array_equal(found["fids"], fids)
    assert np.array_equal(found["rows"], values)


def test_only_what_changes_before_it_is_taken_is_copied() -> None:
    table = _table()
    table.find_or_insert(np.arange(1, 4_001), 0)
    taken = table.snapshot()
    before = taken.nbytes
    for _ in range(20):
        table.find_or_insert(np.arange(1, 50), 1_000)
    few_blocks = taken.nbytes - before
    assert 0 < few_blocks < 0.03 * table.nbytes
    _rest(taken)
    table.find_or_insert(np.arange(1, 4_001), 2_000)
    assert taken.nbytes <= before


def test_when_all_sums_are_scaled_the_rest_is_copied_first() -> None:
    table = _table("adagrad")
    rows = table.find_or_insert(np.arange(1, 200), 0)
    table.apply_gradients(rows, None, np.ones((199, DIM), np.float32), 1_000)
    expected = _copy(table)
    taken = table.snapshot()
    first = [taken.take(), taken.take()]
    ten_half_lives = 10 * round(table.config.accumulator_half_life_s * 1000)
    assert table._optimizer.changes_all(ten_half_lives)
    table.apply_gradients(rows[:1], None, np.ones((1, DIM), np.float32), ten_half_lives)
    assert not np.array_equal(_copy(table)["rows"][100], expected["rows"][100])
    _assert_same(_by_fid(taken, [part for part in first if part] + _rest(taken)), expected)


def test_an_empty_table_has_a_snapshot_without_rows() -> None:
    taken = _table().snapshot()
    assert sum(len(part.fids) for part in _rest(taken)) == taken.count == 0


def test_however_long_it_stays_open_no_more_memory_is_taken_than_for_the_rows_that_changed() -> None:
    table = _table()
    # A batch of more rows than a block has.
    fids = np.arange(1, 181)
    table.find_or_insert(fids, 0)
    taken = table.snapshot()
    table.find_or_insert(fids, 1_000)
    table.find_or_insert(fids, 2_000)
    held = taken.nbytes
    for second in range(3, 13):
        table.find_or_insert(fids, second * 1_000)
    assert taken.nbytes == held


def test_what_is_taken_back_was_there_when_it_began() -> None:
    table = _table()
    table.find_or_insert(np.arange(1, 100), 5_000)
    table.find_or_insert(np.arange(90, 200), 6_000)
    expected = _copy(table)
    taken = table.snapshot()
    assert table.take_back() == 100
    table.find_or_insert(np.arange(300, 400), 7_000)
    _assert_same(_by_fid(taken, _rest(taken)), expected)


def test_a_part_is_listed_from_few_segments_of_a_map_that_is_nearly_empty() -> None:
    table = _table(capacity=200_000)
    table.find_or_insert(np.arange(1, 4), 5_000)
    expected = _copy(table)
    taken = table.snapshot()
    parts = _rest(taken)
    assert len(parts) * 8 >= 1 << table._map.depth > 8
    _assert_same(_by_fid(taken, parts), expected)


def test_one_that_is_closed_holds_nothing_whatever_was_copied_for_it() -> None:
    table = _table("adagrad")
    rows = table.find_or_insert(np.arange(1, 200), 0)
    table.apply_gradients(rows, None, np.ones((199, DIM), np.float32), 1_000)
    taken = table.snapshot()
    ten_half_lives = 10 * round(table.config.accumulator_half_life_s * 1000)
    table.apply_gradients(rows[:1], None, np.ones((1, DIM), np.float32), ten_half_lives)
    held = taken.nbytes
    taken.close()
    assert taken.nbytes < held / 10
    assert taken.take() is None


def test_a_state_that_cannot_be_made_leaves_no_snapshot_open(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    table.find_or_insert(np.arange(1, 200), 0)

    def fails(part: TablePart) -> TablePart:
        raise MemoryError

    monkeypatch.setattr(TablePart, "ordered", fails)
    with pytest.raises(MemoryError):
        table.state()
    assert table._snapshots == []

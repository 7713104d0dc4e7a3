"""A table restored from its state goes on bit for bit; a state that does not fit is refused with a reason."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from rillet.embeddings import EmbeddingTable, TableConfig, TableStateError
from tests.embeddings.twins import OPTIMIZERS, STEP_MS

DIM = 6


def make(optimizer: str, track: bool = True) -> EmbeddingTable:
    return EmbeddingTable(DIM, TableConfig(chunk_rows=64, **OPTIMIZERS[optimizer]), track_touched=track)


def run(table: EmbeddingTable, first: int, last: int) -> None:
    for step in range(first, last):
        rng = np.random.default_rng(step)
        rows = table.find_or_insert(rng.integers(0, 300, 200), step * STEP_MS)
        grad = rng.standard_normal((100, DIM)).astype(np.float32)
        if table.config.optimizer != "none":
            table.apply_gradients(rows, np.full(100, 2, np.uint16), grad, step * STEP_MS)
        table.delete(rng.integers(1, 300, 3))


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and left[name].tobytes() == right[name].tobytes() for name in left
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("track", [True, False])
def test_a_restored_table_continues_bit_for_bit(optimizer: str, track: bool) -> None:
    unbroken = make(optimizer, track)
    run(unbroken, 0, 20)
    broken = make(optimizer, track)
    run(broken, 0, 9)
    saved = load(save(broken.state()))
    restored = EmbeddingTable.from_state(DIM, broken.config, saved)
    run(restored, 9, 20)
    assert same(restored.state(), unbroken.state())


@pytest.mark.parametrize("half_life_s", [0.0, 60.0, 7_200.0])
def test_another_half_life_takes_over_the_sums_as_they_stand(half_life_s: float) -> None:
    table = make("adagrad")
    run(table, 0, 9)
    config = replace(table.config, accumulator_half_life_s=half_life_s)
    changed = EmbeddingTable.from_state(DIM, config, table.state())
    now_ms = 8 * STEP_MS
    for each in (table, changed):
        fids = each.items()[0]
        each.apply_gradients(each.find(fids), None, np.ones((len(fids), DIM), np.float32), now_ms)
    np.testing.assert_allclose(changed.items()[1], table.items()[1], rtol=1e-4, atol=1e-6)


def test_a_state_is_a_copy() -> None:
    table = make("adagrad")
    run(table, 0, 3)
    saved = table.state()
    before = {name: array.copy() for name, array in saved.items()}
    run(table, 3, 6)
    assert same(saved, before)


def test_keys_in_flight_are_saved_as_pending() -> None:
    table = make("adagrad")
    table.find_or_insert(np.array([1, 2, 3]), 0)
    table.touched.take()
    table.find_or_insert(np.array([4]), 0)
    table.delete(np.array([2]))
    restored = EmbeddingTable.from_state(DIM, table.config, table.state())
    assert restored.touched.take().tolist() == [1, 2, 3, 4]


def test_an_empty_table_can_be_saved() -> None:
    restored = EmbeddingTable.from_state(DIM, TableConfig(), make("adagrad").state())
    assert len(restored) == 0
    assert len(restored.touched) == 0


def test_equal_tables_have_equal_states_however_they_came_about() -> None:
    left, right = make("adagrad"), make("adagrad")
    left.find_or_insert(np.array([1, 2, 3]), 1000)
    right.find_or_insert(np.array([9, 3, 1]), 0)
    right.delete(np.array([9]))
    right.find_or_insert(np.array([2, 1, 3]), 1000)
    left.delete(np.array([9]))
    assert {name: array for name, array in left.state().items() if name != "touched"}.keys() <= right.state().keys()
    for name in ("fids", "rows", "seen_s"):
        assert np.array_equal(left.state()[name], right.state()[name])


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])  # noqa: S301
def test_a_clone_has_memory_of_its_own(clone: Any) -> None:
    table = make("adagrad")
    run(table, 0, 4)
    twin = clone(table)
    assert same(twin.state(), table.state())
    before = table.state()
    run(twin, 4, 6)
    assert same(table.state(), before)


def _without(name: str) -> Any:
    return lambda s: s.pop(name)


def _with(name: str, change: Any) -> Any:
    return lambda s: s.update({name: change(s[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("rows"), "rows is missing"),
        (_without("table"), "table is missing"),
        (_with("rows", lambda a: a[:-1]), "rows is float32"),
        (_with("rows", lambda a: a.astype(np.float64)), "rows is float64"),
        (_with("rows", lambda a: a[:, :-1]), "rows is float32"),
        (_with("seen_s", lambda a: a[:-1]), "seen_s is int64"),
        (_with("seen_s", lambda a: a - 10**9), "seen_s has a second"),
        (_with("fids", lambda a: a[::-1]), "not positive and in the order"),
        (_with("fids", lambda a: a - a[0]), "not positive and in the order"),
        (_with("touched", lambda a: a * 0), "touched has a fid"),
        (_with("table", lambda a: a + np.array([1, 0, 0])), "format 4"),
        (_with("table", lambda a: a + np.array([0, 1, 0])), "saved with dim 7"),
        (_with("table", lambda a: a + np.array([0, 0, 1])), "optimizer lazy_adam"),
        (_with("table", lambda a: a + np.array([0, 0, 17])), "optimizer lazy_adam with amsgrad"),
        (_without("clock"), "clock is missing"),
        (_with("clock", lambda a: a - np.array([0, 0, 10**9])), "clock has times"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(damage: Any, message: str) -> None:
    table = make("adagrad")
    run(table, 0, 2)
    saved = table.state()
    damage(saved)
    with pytest.raises(TableStateError, match=message):
        EmbeddingTable.from_state(DIM, table.config, saved)

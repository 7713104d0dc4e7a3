"""One list of properties that every optimiser has to pass, then each against its formula and against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rillet.embeddings import EmbeddingTable, GradientError, TableConfig, TableInputError
from rillet.embeddings.optimizers import adam_corrections
from tests.embeddings import twins

OPTIMIZERS = ["adagrad", "lazy_adam"]
DIM = 5

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def make(optimizer: Any, **settings: Any) -> EmbeddingTable:
    return EmbeddingTable(DIM, TableConfig(optimizer=optimizer, chunk_rows=32, init_scale=0.3, **settings))


def gradients(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@every_optimizer
@pytest.mark.parametrize("ragged", [False, True])
def test_matches_its_formula_in_float64(optimizer: str, ragged: bool) -> None:
    rng = np.random.default_rng(3)
    table = make(optimizer)
    rows: dict[int, Any] = {}
    for step in range(6):
        lengths = rng.integers(0, 4, 150).astype(np.uint16) if ragged else np.ones(150, np.uint16)
        fids = rng.integers(0, 60, int(lengths.sum()))
        grad = gradients(step, len(lengths))
        numbers = table.find_or_insert(fids, 0)
        sums = twins.summed(fids, lengths, grad)
        assert table.apply_gradients(numbers, lengths if ragged else None, grad) == len(sums)
        for fid, g in sums.items():
            if fid not in rows:
                rows[fid] = twins.TWINS[optimizer](twins.initial_row(fid, DIM, table.config), table.config)
            rows[fid].step(g)
    fids, values = table.items()
    assert fids.tolist() == sorted(rows)
    np.testing.assert_allclose(values, np.stack([rows[fid].row for fid in fids.tolist()]), rtol=2e-4, atol=2e-5)


@every_optimizer
def test_a_zero_gradient_leaves_a_fresh_row_as_it_is(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.arange(1, 9), 0)
    before = table.items()[1]
    assert table.apply_gradients(rows, None, np.zeros((8, DIM), np.float32)) == 8
    assert np.array_equal(table.items()[1], before)


@every_optimizer
@pytest.mark.parametrize("grad", [1.2e19, np.inf, np.nan], ids=["overflows in the sum", "infinite", "no number"])
def test_gradients_whose_sum_cannot_be_squared_are_refused_and_change_nothing(optimizer: str, grad: float) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.array([4, 7, 4]), 0)
    table.apply_gradients(rows, None, gradients(0, 3))
    before = table.state()
    large = np.zeros((3, DIM), np.float32)
    large[[0, 2], 1] = grad
    with pytest.raises(GradientError):
        table.apply_gradients(rows, None, large)
    for name, array in table.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    if np.isfinite(grad):
        assert table.apply_gradients(rows[:1], None, large[:1]) == 1


@every_optimizer
def test_rows_outside_the_batch_do_not_change(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.arange(1, 101), 0)
    table.apply_gradients(rows, None, gradients(0, 100))
    before = table.state()["rows"]
    table.apply_gradients(rows[::2].copy(), None, gradients(1, 50))
    after = table.state()["rows"]
    assert np.array_equal(after[1::2], before[1::2])
    assert (after[::2] != before[::2]).any(axis=1).all()


@every_optimizer
def test_the_order_of_a_batch_does_not_matter(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    fids, grad = rng.integers(1, 20, 200), gradients(0, 200)
    order = rng.permutation(200)
    results = []
    for f, g in ((fids, grad), (fids[order], grad[order])):
        table = make(optimizer)
        table.apply_gradients(table.find_or_insert(f, 0), None, np.ascontiguousarray(g))
        results.append(table.items()[1])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


@every_optimizer
def test_duplicates_make_one_step_with_the_sum(optimizer: str) -> None:
    grad = gradients(0, 3)
    apart, together = make(optimizer), make(optimizer)
    apart.apply_gradients(apart.find_or_insert(np.array([9, 9, 9]), 0), None, grad)
    together.apply_gradients(together.find_or_insert(np.array([9]), 0), None, grad.sum(axis=0, keepdims=True))
    np.testing.assert_allclose(apart.items()[1], together.items()[1], rtol=1e-6)


@every_optimizer
def test_a_pooled_gradient_is_shared_by_the_segments_length(optimizer: str) -> None:
    grad = gradients(0, 1)
    pooled, plain = make(optimizer), make(optimizer)
    # the padding counts in the length, as it does in the mean
    pooled.apply_gradients(pooled.find_or_insert(np.array([1, 2, 0, 1]), 0), np.array([4], np.uint16), grad)
    plain.apply_gradients(plain.find_or_insert(np.array([1, 2]), 0), None, np.concatenate([grad / 2, grad / 4]))
    np.testing.assert_allclose(pooled.items()[1], plain.items()[1], rtol=1e-6)


@every_optimizer
def test_steps_lower_a_convex_loss(optimizer: str) -> None:
    table = make(optimizer, learning_rate=0.1)
    rows = table.find_or_insert(np.arange(1, 21), 0)
    target = gradients(5, 20)
    first = np.square(table.gather_pooled(rows, None) - target).mean()
    for _ in range(60):
        table.apply_gradients(rows, None, table.gather_pooled(rows, None) - target)
    assert np.square(table.gather_pooled(rows, None) - target).mean() < 0.2 * first


@every_optimizer
def test_a_step_factor_is_a_larger_learning_rate_for_one_call(optimizer: str) -> None:
    factored, faster = make(optimizer, learning_rate=0.01), make(optimizer, learning_rate=0.04)
    for table, factor in ((factored, 4.0), (faster, 1.0)):
        table.apply_gradients(table.find_or_insert(np.arange(1, 9), 0), None, gradients(2, 8), step_factor=factor)
    np.testing.assert_allclose(factored.items()[1], faster.items()[1], rtol=1e-5)


@every_optimizer
def test_the_same_calls_give_the_same_bits(optimizer: str) -> None:
    results = []
    for _ in range(2):
        table = make(optimizer)
        for step in range(4):
            fids = np.random.default_rng(step).integers(0, 40, 300)
            table.apply_gradients(table.find_or_insert(fids, 0), None, gradients(step, 300))
        results.append(table.state()["rows"])
    assert np.array_equal(results[0], results[1])


@every_optimizer
def test_a_row_that_was_deleted_since_it_was_found_is_passed_over(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.array([1, 2, 3]), 0)
    table.delete(np.array([2]))
    assert table.apply_gradients(rows, None, gradients(0, 3)) == 2
    table.find_or_insert(np.array([4]), 0)
    fresh = twins.initial_row(4, DIM, table.config)
    assert np.array_equal(table.values(np.array([4]))[0], fresh)


@every_optimizer
def test_a_fid_inserted_again_starts_with_fresh_slots(optimizer: str) -> None:
    table = make(optimizer)
    for _ in range(3):
        table.apply_gradients(table.find_or_insert(np.array([1]), 0), None, gradients(0, 1))
    table.delete(np.array([1]))
    table.find_or_insert(np.array([1]), 0)
    new = make(optimizer)
    new.find_or_insert(np.array([1]), 0)
    assert np.array_equal(table.state()["rows"], new.state()["rows"])


def test_without_an_optimizer_gradients_are_refused() -> None:
    table = make("none")
    rows = table.find_or_insert(np.array([1]), 0)
    before = table.items()[1]
    with pytest.raises(TableInputError, match="optimizer none"):
        table.apply_gradients(rows, None, gradients(0, 1))
    assert np.array_equal(table.items()[1], before)


@pytest.mark.parametrize(
    ("optimizer", "peer"),
    [
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1, eps=1e-8)),
        ("lazy_adam", lambda p: torch.optim.SparseAdam(p, lr=0.05, eps=1e-8)),
    ],
)
def test_agrees_with_torch_where_every_row_is_in_every_batch(optimizer: str, peer: Any) -> None:
    # SparseAdam has one step count for all rows; the two are the same only if all rows step each time.
    table = make(optimizer, learning_rate=0.05)
    fids = np.concatenate([np.arange(1, 31), np.arange(1, 31)])
    rows = table.find_or_insert(fids, 0)
    theirs = torch.nn.Embedding(30, DIM, sparse=True, _weight=torch.from_numpy(table.items()[1].copy()))
    optimiser = peer(theirs.parameters())
    for step in range(8):
        grad = gradients(step, 60)
        optimiser.zero_grad()
        theirs(torch.from_numpy(fids - 1)).backward(torch.from_numpy(grad))
        optimiser.step()
        table.apply_gradients(rows, None, grad)
    np.testing.assert_allclose(table.items()[1], theirs.weight.detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.0, 0.0), (0.9, 0.9999)])
def test_adams_table_of_corrections_ends_where_they_have_become_one(beta1: float, beta2: float) -> None:
    config = TableConfig(optimizer="lazy_adam", beta1=beta1, beta2=beta2)
    rates, root_scales = adam_corrections(config)
    assert rates[-1] == np.float32(config.learning_rate)
    assert abs(root_scales[-1] - 1) < 1e-7
    assert rates[1] == np.float32(config.learning_rate / (1 - beta1))


def test_adam_goes_on_past_the_end_of_its_corrections() -> None:
    config = TableConfig(optimizer="lazy_adam", beta1=0.5, beta2=0.5)
    table = EmbeddingTable(DIM, config)
    rows = table.find_or_insert(np.array([1]), 0)
    twin = twins.LazyAdam(table.items()[1][0], config)
    steps = len(adam_corrections(config)[0]) + 20
    for step in range(steps):
        grad = gradients(step, 1)
        table.apply_gradients(rows, None, grad)
        twin.step(grad[0].astype(np.float64))
    np.testing.assert_allclose(table.items()[1][0], twin.row, rtol=1e-3, atol=1e-4)

"""One list of properties that every optimiser has to pass, then each against its formula and against torch."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from rillet.embeddings import EmbeddingTable, GradientError, TableConfig, TableInputError
from rillet.embeddings.optimizers import adam_corrections
from tests.embeddings import twins

HALF_LIFE_S = 3600.0
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "none": {"optimizer": "none"},
    "adagrad": {"optimizer": "adagrad", "accumulator_half_life_s": 0.0},
    "decayed adagrad": {"optimizer": "adagrad", "accumulator_half_life_s": HALF_LIFE_S},
    "ftrl": {"optimizer": "ftrl", "l1": 0.05, "l2": 0.2, "eps": 0.5, "accumulator_half_life_s": 0.0},
    "decayed ftrl": {"optimizer": "ftrl", "l1": 0.05, "accumulator_half_life_s": HALF_LIFE_S},
    "lazy_adam": {"optimizer": "lazy_adam"},
    "amsgrad": {"optimizer": "lazy_adam", "amsgrad": True},
}
DIM = 5

every_optimizer = pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "none"])


def make(optimizer: str, **settings: Any) -> EmbeddingTable:
    return EmbeddingTable(
        DIM, TableConfig(**{"chunk_rows": 32, "init_scale": 0.3, **OPTIMIZERS[optimizer], **settings})
    )


def twin_of(table: EmbeddingTable, fid: int) -> Any:
    return twins.TWINS[table.config.optimizer](twins.initial_row(fid, table.dim, table.config), table.config)


def gradients(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@every_optimizer
@pytest.mark.parametrize("ragged", [False, True])
def test_matches_its_formula_in_float64(optimizer: str, ragged: bool) -> None:
    rng = np.random.default_rng(3)
    weight_decay = 0.0 if "ftrl" in optimizer else 2.0
    table = make(optimizer, weight_decay=weight_decay)
    rows: dict[int, Any] = {}
    newest_ms = 0
    # Some of the times lie beyond where the weights of forward decay begin anew, one goes back.
    for step, hours in enumerate((470_000, 470_000.4, 470_002, 470_001, 470_039, 470_041, 470_130, 470_130.5)):
        now_ms = round(hours * 3_600_000)
        newest_ms = max(newest_ms, now_ms)
        lengths = rng.integers(0, 4, 150).astype(np.uint16) if ragged else np.ones(150, np.uint16)
        fids = rng.integers(0, 60, int(lengths.sum()))
        grad = gradients(step, len(lengths))
        numbers = table.find_or_insert(fids, 0)
        sums = twins.summed(fids, lengths, grad)
        assert table.apply_gradients(numbers, lengths if ragged else None, grad, now_ms) == len(sums)
        for fid, g in sums.items():
            if fid not in rows:
                rows[fid] = twin_of(table, fid)
            rows[fid].step(g, newest_ms)
    fids, values = table.items()
    assert fids.tolist() == sorted(rows)
    np.testing.assert_allclose(values, np.stack([rows[fid].row for fid in fids.tolist()]), rtol=2e-4, atol=2e-5)


@every_optimizer
def test_a_zero_gradient_leaves_a_fresh_row_as_it_is(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.arange(1, 9), 0)
    before = table.items()[1]
    assert table.apply_gradients(rows, None, np.zeros((8, DIM), np.float32), 0) == 8
    assert np.array_equal(table.items()[1], before)


@every_optimizer
@pytest.mark.parametrize("grad", [1.2e16, np.inf, np.nan], ids=["overflows in the sum", "infinite", "no number"])
def test_gradients_whose_sum_cannot_be_squared_are_refused_and_change_nothing(optimizer: str, grad: float) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.array([4, 7, 4]), 0)
    table.apply_gradients(rows, None, gradients(0, 3), 0)
    before = table.state()
    large = np.zeros((3, DIM), np.float32)
    large[[0, 2], 1] = grad
    with pytest.raises(GradientError):
        table.apply_gradients(rows, None, large, 0)
    for name, array in table.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    if np.isfinite(grad):
        assert table.apply_gradients(rows[:1], None, large[:1], 0) == 1


@every_optimizer
def test_rows_outside_the_batch_do_not_change(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.arange(1, 101), 0)
    table.apply_gradients(rows, None, gradients(0, 100), 0)
    before = twins.saved_rows(table)
    table.apply_gradients(rows[::2].copy(), None, 9 * gradients(1, 50), 0)
    after = twins.saved_rows(table)
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
        table.apply_gradients(table.find_or_insert(f, 0), None, np.ascontiguousarray(g), 0)
        results.append(table.items()[1])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


@every_optimizer
def test_duplicates_make_one_step_with_the_sum(optimizer: str) -> None:
    grad = gradients(0, 3)
    apart, together = make(optimizer), make(optimizer)
    apart.apply_gradients(apart.find_or_insert(np.array([9, 9, 9]), 0), None, grad, 0)
    together.apply_gradients(together.find_or_insert(np.array([9]), 0), None, grad.sum(axis=0, keepdims=True), 0)
    np.testing.assert_allclose(apart.items()[1], together.items()[1], rtol=1e-6)


@every_optimizer
def test_a_pooled_gradient_is_shared_by_the_segments_length(optimizer: str) -> None:
    grad = gradients(0, 1)
    pooled, plain = make(optimizer), make(optimizer)
    # the padding counts in the length, as it does in the mean
    pooled.apply_gradients(pooled.find_or_insert(np.array([1, 2, 0, 1]), 0), np.array([4], np.uint16), grad, 0)
    plain.apply_gradients(plain.find_or_insert(np.array([1, 2]), 0), None, np.concatenate([grad / 2, grad / 4]), 0)
    np.testing.assert_allclose(pooled.items()[1], plain.items()[1], rtol=1e-6)


@every_optimizer
def test_steps_lower_a_convex_loss(optimizer: str) -> None:
    table = make(optimizer, learning_rate=0.1)
    rows = table.find_or_insert(np.arange(1, 21), 0)
    target = gradients(5, 20)
    first = np.square(table.gather_pooled(rows, None) - target).mean()
    for _ in range(60):
        table.apply_gradients(rows, None, table.gather_pooled(rows, None) - target, 0)
    assert np.square(table.gather_pooled(rows, None) - target).mean() < 0.2 * first


@every_optimizer
def test_a_step_factor_is_a_larger_learning_rate_for_one_call(optimizer: str) -> None:
    factored, faster = make(optimizer, learning_rate=0.01), make(optimizer, learning_rate=0.04)
    for table, factor in ((factored, 4.0), (faster, 1.0)):
        table.apply_gradients(table.find_or_insert(np.arange(1, 9), 0), None, gradients(2, 8), 0, step_factor=factor)
    np.testing.assert_allclose(factored.items()[1], faster.items()[1], rtol=1e-5)


@every_optimizer
def test_the_same_calls_give_the_same_bits(optimizer: str) -> None:
    results = []
    for _ in range(2):
        table = make(optimizer)
        for step in range(4):
            fids = np.random.default_rng(step).integers(0, 40, 300)
            table.apply_gradients(table.find_or_insert(fids, 0), None, gradients(step, 300), 0)
        results.append(twins.saved_rows(table))
    assert np.array_equal(results[0], results[1])


@every_optimizer
def test_a_row_that_was_deleted_since_it_was_found_is_passed_over(optimizer: str) -> None:
    table = make(optimizer)
    rows = table.find_or_insert(np.array([1, 2, 3]), 0)
    table.delete(np.array([2]))
    assert table.apply_gradients(rows, None, gradients(0, 3), 0) == 2
    table.find_or_insert(np.array([4]), 0)
    fresh = twins.initial_row(4, DIM, table.config)
    assert np.array_equal(table.values(np.array([4]))[0], fresh)


@every_optimizer
def test_a_fid_inserted_again_starts_with_fresh_slots(optimizer: str) -> None:
    table = make(optimizer)
    for _ in range(3):
        table.apply_gradients(table.find_or_insert(np.array([1]), 0), None, gradients(0, 1), 0)
    table.delete(np.array([1]))
    table.find_or_insert(np.array([1]), 0)
    new = make(optimizer)
    new.find_or_insert(np.array([1]), 0)
    assert np.array_equal(twins.saved_rows(table), twins.saved_rows(new))


def test_without_an_optimizer_gradients_are_refused() -> None:
    table = make("none")
    rows = table.find_or_insert(np.array([1]), 0)
    before = table.items()[1]
    with pytest.raises(TableInputError, match="optimizer none"):
        table.apply_gradients(rows, None, gradients(0, 1), 0)
    assert np.array_equal(table.items()[1], before)


@pytest.mark.parametrize(
    ("optimizer", "weight_decay", "peer"),
    [
        ("adagrad", 0.0, lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1, eps=1e-8)),
        ("lazy_adam", 0.0, lambda p: torch.optim.Adam(p, lr=0.05, eps=1e-8)),
        ("lazy_adam", 0.5, lambda p: torch.optim.AdamW(p, lr=0.05, eps=1e-8, weight_decay=0.5)),
        ("amsgrad", 0.5, lambda p: torch.optim.AdamW(p, lr=0.05, eps=1e-8, weight_decay=0.5, amsgrad=True)),
    ],
)
def test_agrees_with_torch_where_every_row_is_in_every_batch(optimizer: str, weight_decay: float, peer: Any) -> None:
    # Torch has one step count for all rows; the two are the same only if all rows step each time.
    table = make(optimizer, learning_rate=0.05, weight_decay=weight_decay)
    fids = np.concatenate([np.arange(1, 31), np.arange(1, 31)])
    rows = table.find_or_insert(fids, 0)
    theirs = torch.nn.Embedding(30, DIM, _weight=torch.from_numpy(table.items()[1].copy()))
    optimiser = peer(theirs.parameters())
    for step in range(8):
        grad = gradients(step, 60)
        optimiser.zero_grad()
        theirs(torch.from_numpy(fids - 1)).backward(torch.from_numpy(grad))
        optimiser.step()
        table.apply_gradients(rows, None, grad, 0)
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
        table.apply_gradients(rows, None, grad, 0)
        twin.step(grad[0].astype(np.float64))
    np.testing.assert_allclose(table.items()[1][0], twin.row, rtol=1e-3, atol=1e-4)


def _step_sizes(table: EmbeddingTable, hours: int) -> np.ndarray:
    """How far a row moves in each of the steps that it makes, one every six minutes, on gradients of one size."""
    rows = table.find_or_insert(np.array([1]), 0)
    values = [table.values(np.array([1]))[0, 0]]
    for step in range(10 * hours):
        grad = np.full((1, DIM), 1 - 2 * (step % 2), np.float32)
        table.apply_gradients(rows, None, grad, 1_700_000_000_000 + step * 360_000)
        values.append(table.values(np.array([1]))[0, 0])
    return np.abs(np.diff(values))


def test_steps_of_adagrad_die_out_unless_its_sums_decay() -> None:
    endless, decayed = (_step_sizes(make(name), 100) for name in ("adagrad", "decayed adagrad"))
    # 1 / sqrt(n): the sum of n squares of 1
    assert endless[-1] == pytest.approx(0.03 / np.sqrt(1000.1), rel=1e-3)
    # The sum of ten squares an hour, half of them forgotten every hour, stays at 10 / ln 2, and so do the steps.
    assert decayed[-1] == pytest.approx(0.03 / np.sqrt(10 / np.log(2)), rel=0.05)
    assert decayed[100] == pytest.approx(decayed[-1], rel=1e-3)


def test_a_row_that_rested_for_long_steps_like_a_new_one_and_no_wider() -> None:
    table = make("decayed adagrad", init_scale=0.0)
    moved = []
    for time_s in (0, 1, 2, 1000 * HALF_LIFE_S):
        before = table.values(np.array([1]))[0, 0] if len(table) else 0.0
        table.apply_gradients(
            table.find_or_insert(np.array([1]), 0), None, np.ones((1, DIM), np.float32), int(time_s * 1000)
        )
        moved.append(before - table.values(np.array([1]))[0, 0])
    assert moved[2] < 0.7 * moved[0]
    assert moved[3] == pytest.approx(moved[0], rel=1e-4)


def test_of_two_rows_that_are_equally_sure_the_one_met_more_often_takes_smaller_steps() -> None:
    # Twice as many steps of a row within the half-life: each smaller by a root of two, as suits a value that drifts in time.
    table = make("decayed adagrad")
    often, seldom = table.find_or_insert(np.array([1, 2]), 0)
    for step in range(2000):
        rows = np.array([often, seldom] if step % 2 else [often])
        table.apply_gradients(rows, None, np.ones((len(rows), DIM), np.float32), step * 60_000)
    totals = twins.saved_rows(table)[:, DIM]
    assert np.sqrt(totals[0] / totals[1]) == pytest.approx(np.sqrt(2), rel=0.02)


def test_a_gradient_of_absurd_size_does_not_stop_a_row_for_ever() -> None:
    table = make("decayed adagrad")
    rows = table.find_or_insert(np.array([1]), 0)
    table.apply_gradients(rows, None, np.full((1, DIM), 1e16, np.float32), 7 * 3_600_000)
    before = table.values(np.array([1]))
    table.apply_gradients(rows, None, np.ones((1, DIM), np.float32), 207 * 3_600_000)
    np.testing.assert_allclose(before - table.values(np.array([1])), 0.03 / np.sqrt(1.1), rtol=1e-3)


@pytest.mark.parametrize("half_life_s", [0.0, HALF_LIFE_S])
def test_ftrl_without_regularisation_is_adagrad(half_life_s: float) -> None:
    ftrl = make("ftrl", l1=0.0, l2=0.0, eps=0.0, accumulator_half_life_s=half_life_s)
    adagrad = make("adagrad", eps=0.0, accumulator_half_life_s=half_life_s)
    for step in range(50):
        for table in (ftrl, adagrad):
            rows = table.find_or_insert(np.arange(1, 21), 0)
            table.apply_gradients(rows, None, gradients(step, 20), step * 1_000_000)
    np.testing.assert_allclose(ftrl.items()[1], adagrad.items()[1], rtol=1e-4, atol=1e-6)


def test_ftrl_keeps_a_weight_at_zero_until_its_gradients_agree() -> None:
    table = make("ftrl", l1=3.0, init_scale=0.0)
    rows = table.find_or_insert(np.array([1, 2]), 0)
    for step in range(4):
        # The first row's gradients agree, the second's do not.
        grad = np.stack([np.ones(DIM), np.full(DIM, 1 - 2 * (step % 2))]).astype(np.float32)
        table.apply_gradients(rows, None, grad, 0)
        if step == 2:
            assert not table.items()[1].any()
    assert (table.items()[1][0] < 0).all()
    assert not table.items()[1][1].any()


@every_optimizer
def test_learning_goes_on_from_weights_that_were_set(optimizer: str) -> None:
    table = make(optimizer)
    fids = np.array([1])
    rows = table.find_or_insert(fids, 0)
    for step in range(5):
        table.apply_gradients(rows, None, 3 * gradients(step, 1), 0)
    for value in (0.0, 0.7):
        table.upsert(fids, np.full((1, DIM), value, np.float32))
        table.apply_gradients(rows, None, np.full((1, DIM), 1e-3, np.float32), 0)
        assert np.abs(table.values(fids) - value).max() < 0.05


@pytest.mark.parametrize("optimizer", ["adagrad", "ftrl"])
@pytest.mark.parametrize("time_ms", [0, int(7.9 * HALF_LIFE_S * 1000)], ids=["least weight", "most weight"])
def test_no_gradient_that_is_taken_makes_a_sum_of_squares_infinite(optimizer: str, time_ms: int) -> None:
    table = make(f"decayed {optimizer}", init_scale=0.0)
    rows = table.find_or_insert(np.array([1]), 0)
    table.apply_gradients(rows, None, np.ones((1, DIM), np.float32), time_ms)
    for grad in (1e16, 1e17, 1.5e19):
        for _ in range(3):
            with contextlib.suppress(GradientError):
                table.apply_gradients(rows, None, np.full((1, DIM), grad, np.float32), time_ms)
    assert np.isfinite(twins.saved_rows(table)).all()

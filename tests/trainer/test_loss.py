"""The loss undoes the choice of rows: the model that minimises it predicts the rate of the impressions themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rillet.trainer.loss import sampled_bce

PAIRS, EXPOSURES = False, True


def _none(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.bool)


def _fit(features: Tensor, labels: Tensor, rate: float | Tensor, exposure: bool, late: Tensor | None = None) -> Tensor:
    """Weights of the logistic regression that has the least loss; one rate, or one per row."""
    n = len(labels)
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    rates = rate if isinstance(rate, Tensor) else torch.full((n,), rate, dtype=torch.float64)
    kinds = torch.full((n,), exposure)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sampled_bce(
            (features @ weights).unsqueeze(1),
            labels,
            torch.ones(n, 1),
            rates,
            kinds,
            _none(n) if late is None else late,
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def test_pair_rows_give_the_log_odds_of_all_impressions() -> None:
    # 100 positives and 900 negatives of which a tenth was kept.
    labels = torch.cat([torch.ones(100), torch.zeros(90)]).unsqueeze(1).double()
    bias = _fit(torch.ones(190, 1, dtype=torch.float64), labels, 0.1, PAIRS)
    assert torch.sigmoid(bias).item() == pytest.approx(100 / 1000, rel=1e-3)


def _exposure_rows(rng: np.random.Generator, rate: float) -> tuple[Tensor, Tensor]:
    """Rows of 8,000 impressions as mode immediate sends them, with the log-odds -2 + 1.5 x of x in -1, 0, 1."""
    x = rng.integers(-1, 2, 8_000)
    features = np.stack([np.ones(len(x)), x], 1)
    acted = rng.random(len(x)) < 1 / (1 + np.exp(-(features @ (-2.0, 1.5))))
    kept = rng.random(len(x)) < rate
    rows = np.concatenate([features[kept], features[acted]])
    labels = np.repeat([0.0, 1.0], [kept.sum(), acted.sum()])
    return torch.from_numpy(rows), torch.from_numpy(labels).unsqueeze(1)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_exposure_rows_give_the_true_weights(rate: float) -> None:
    features, labels = _exposure_rows(np.random.default_rng(3), rate)
    weights = _fit(features, labels, rate, EXPOSURES)
    assert weights.tolist() == pytest.approx([-2.0, 1.5], abs=0.15)


@pytest.mark.parametrize("exposure", [PAIRS, EXPOSURES])
@pytest.mark.parametrize("rule", ["slot", "score"])
def test_a_rate_of_its_own_on_each_row_gives_the_true_weights(exposure: bool, rule: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-1, 2, 40_000)
    features = np.stack([np.ones(len(x)), x], 1)
    log_odds = features @ (-2.0, 1.5)
    acted = rng.random(len(x)) < 1 / (1 + np.exp(-log_odds))
    # What was served is wrong by as much as the rates of any two x differ.
    served = 1 / (1 + np.exp(-log_odds - rng.normal(0, 1, len(x))))
    rates = np.array([0.05, 0.3, 1.0])[x + 1] if rule == "slot" else np.clip(0.1 * served / 0.2, 0.02, 1)
    kept = (rng.random(len(x)) < rates) & (exposure | ~acted)
    rows = torch.from_numpy(np.concatenate([features[kept], features[acted]]))
    labels = torch.from_numpy(np.repeat([0.0, 1.0], [kept.sum(), acted.sum()])).unsqueeze(1)
    of_rows = torch.from_numpy(np.concatenate([rates[kept], rates[acted]]))
    assert _fit(rows, labels, of_rows, exposure).tolist() == pytest.approx([-2.0, 1.5], abs=0.08)
    # A mean rate on all rows in their place misleads.
    mean = _fit(rows, labels, float(rates.mean()), exposure)
    assert abs(mean - torch.tensor([-2.0, 1.5])).max() > 0.3


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_exposure_rows_taken_for_pairs_promise_too_little_for_the_best(rate: float) -> None:
    features, labels = _exposure_rows(np.random.default_rng(3), rate)
    weights = _fit(features, labels, rate, PAIRS)
    best = torch.sigmoid(weights.sum()).item()
    truth = 1 / (1 + np.exp(0.5))
    assert best < 0.8 * truth


@pytest.mark.parametrize("rate", [1.0, 0.1])
@pytest.mark.parametrize(("on_time", "late"), [(0.3, 0.3), (0.1, 0.2), (0.05, 0.05), (0.0, 0.1)])
def test_late_positives_that_take_their_negatives_back_give_the_rate_of_all_positives(
    on_time: float, late: float, rate: float
) -> None:
    n = 10_000
    # A late action finds its negative sent with probability r; otherwise it gives an ordinary positive.
    counts = [round((on_time + late * (1 - rate)) * n), round((1 - on_time) * rate * n), round(late * rate * n)]
    labels = torch.tensor(np.repeat([1.0, 0.0, 1.0], counts)).unsqueeze(1)
    kinds = torch.tensor(np.repeat([False, False, True], counts))
    bias = _fit(torch.ones(len(labels), 1, dtype=torch.float64), labels, rate, PAIRS, kinds)
    assert torch.sigmoid(bias).item() == pytest.approx(on_time + late, rel=1e-3)


@pytest.mark.parametrize("rate", [1.0, 0.25])
@pytest.mark.parametrize("on_time", [0.0, 0.1, 0.3])
def test_the_expected_gradient_does_not_depend_on_how_many_actions_come_in_time(on_time: float, rate: float) -> None:
    z, p = torch.linspace(-5, 5, 21, dtype=torch.float64).unsqueeze(1).requires_grad_(), 0.3
    n = len(z)

    def gradient(label: float, late: bool = False) -> torch.Tensor:
        rates, kinds = torch.full((n,), rate, dtype=torch.float64), torch.full((n,), late)
        loss = sampled_bce(
            z, torch.full((n, 1), float(label), dtype=torch.float64), torch.ones(n, 1), rates, _none(n), kinds
        )
        return torch.autograd.grad(loss, z)[0]

    late = p - on_time
    expected = on_time * gradient(1) + (1 - p) * rate * gradient(0)
    expected += late * (rate * (gradient(0) + gradient(1, late=True)) + (1 - rate) * gradient(1))
    torch.testing.assert_close(expected, p * gradient(1) + (1 - p) * rate * gradient(0))


@pytest.mark.parametrize("on_time", [0.05, 0.5])
def test_a_late_positive_of_a_sampled_negative_leaves_the_weights_of_each_kind_of_impression_true(
    on_time: float,
) -> None:
    """Rows as the joiner sends them, each kind of impression with a rate of its own, and only some actions in time."""
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, 60_000)
    features = np.stack([np.ones(len(x)), x], 1)
    acted = rng.random(len(x)) < 1 / (1 + np.exp(-features @ (-2.0, 1.5)))
    rates = np.array([0.1, 0.3, 1.0])[x + 1]
    # Likely ones act sooner: lateness is not by chance alone.
    early = acted & (rng.random(len(x)) < on_time * (1 + 0.5 * x))
    sent = ~early & (rng.random(len(x)) < rates)
    which = np.concatenate([np.flatnonzero(sent), np.flatnonzero(acted)])
    labels = torch.from_numpy(np.repeat([0.0, 1.0], [sent.sum(), acted.sum()])).unsqueeze(1)
    late = torch.from_numpy(np.concatenate([np.zeros(sent.sum(), bool), sent[acted]]))
    weights = _fit(torch.from_numpy(features[which]), labels, torch.from_numpy(rates[which]), PAIRS, late)
    assert weights.tolist() == pytest.approx([-2.0, 1.5], abs=0.08)


def test_the_gradient_of_all_forms_is_that_of_finite_differences() -> None:
    logits = torch.tensor([[-3.0], [0.2], [4.0], [-0.5], [0.7]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0.0], [1.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    rates = torch.tensor([0.2, 0.2, 1.0, 0.5, 0.5], dtype=torch.float64)
    exposure = torch.tensor([True, True, True, False, False])
    late = torch.tensor([False, False, False, False, True])
    assert torch.autograd.gradcheck(
        lambda z: sampled_bce(z, labels, torch.ones(5, 1), rates, exposure, late), (logits,)
    )


@pytest.mark.parametrize("exposure", [PAIRS, EXPOSURES])
@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-200.0, -30.0, 30.0, 200.0])
def test_extreme_logits_have_a_finite_loss_and_gradient(exposure: bool, label: float, logit: float) -> None:
    logits = torch.full((1, 1), logit, requires_grad=True)
    loss = sampled_bce(
        logits, torch.full((1, 1), label), torch.ones(1, 1), torch.tensor([0.1]), torch.tensor([exposure]), _none(1)
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if logit < 0:
        # A positive that was thought impossible pulls with its whole weight, and a negative hardly at all.
        assert logits.grad.item() == pytest.approx(-label, abs=1e-9)


def test_masked_tasks_neither_count_nor_get_a_gradient() -> None:
    logits = torch.tensor([[0.3, 5.0], [2.0, -0.7]], requires_grad=True)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    loss = sampled_bce(logits, labels, mask, torch.ones(2), _none(2), _none(2))
    loss.backward()
    expected = np.logaddexp(0, [-0.3, -0.7]).sum()  # the cross-entropies of a positive at 0.3, a negative at -0.7
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad[mask == 0] == 0).all()


@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_later_exposure_rows_pull_by_what_they_miss_of_the_label_and_no_longer_by_the_likelihood(
    rate: float, label: float
) -> None:
    z = torch.linspace(-6, 6, 25, dtype=torch.float64).unsqueeze(1).requires_grad_()
    n = len(z)
    labels, ones = torch.full((n, 1), label), torch.ones(n, 1)
    rates = torch.full((n,), rate, dtype=torch.float64)
    p = torch.sigmoid(z.detach())
    missed = p / (p + rate) - label
    values = []
    for share, expected in ((1.0, (1 - p) * missed), (0.0, missed), (0.25, (0.25 * (1 - p) + 0.75) * missed)):
        loss = sampled_bce(z, labels, ones, rates, torch.full((n,), True), _none(n), share)
        torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)
        values.append(loss.item())
    # What is told is the likelihood's value, whichever way it is learned.
    assert values == pytest.approx([values[0]] * 3)


def test_the_likelihoods_share_leaves_pair_rows_and_late_positives_alone() -> None:
    z = torch.tensor([[0.5], [-1.0]], requires_grad=True)
    labels, ones, rates = torch.tensor([[1.0], [0.0]]), torch.ones(2, 1), torch.tensor([0.5, 0.5])
    late = torch.tensor([True, False])
    found = [
        torch.autograd.grad(sampled_bce(z, labels, ones, rates, _none(2), late, share), z)[0] for share in (1.0, 0.0)
    ]
    assert torch.equal(*found)


def test_far_logits_keep_finite_gradients_without_the_likelihood() -> None:
    z = torch.tensor([[-200.0], [200.0], [-200.0], [200.0]], requires_grad=True)
    labels = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    loss = sampled_bce(z, labels, torch.ones(4, 1), torch.full((4,), 0.01), torch.full((4,), True), _none(4), 0.0)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, 1 / 1.01, -1.0, 1 / 1.01 - 1]))


def test_both_forms_find_the_same_weights() -> None:
    rng = np.random.default_rng(5)
    features, labels = _exposure_rows(rng, 0.3)
    likelihood = _fit(features, labels, 0.3, EXPOSURES)
    weights = likelihood.clone().requires_grad_()
    n = len(labels)
    rates, kinds = torch.full((n,), 0.3, dtype=torch.float64), torch.full((n,), True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def closure() -> Tensor:
        # The value is the likelihood's, so no line search can use it.
        optimizer.zero_grad()
        loss = sampled_bce((features @ weights).unsqueeze(1), labels, torch.ones(n, 1), rates, kinds, _none(n), 0.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(weights.detach(), likelihood, atol=0.1, rtol=0)
    torch.testing.assert_close(weights.detach(), torch.tensor([-2.0, 1.5], dtype=torch.float64), atol=0.1, rtol=0)

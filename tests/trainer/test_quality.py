"""Metrics against scikit-learn and against their definitions; intervals against repeated samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas.arrays import Bools, Float64s, Int64s
from rillet.trainer.quality import (
    Influence,
    Spread,
    _t_quantile,
    auc,
    auc_within,
    average,
    calibration,
    difference,
    estimate,
    normalised_entropy,
    sigmoid,
    spread_of_runs,
    sum_of_spreads,
    time_blocks,
)
from tests.trainer.reference import log_loss, roc_auc_score, weighted_auc, weighted_log_loss


def sample(rng: np.random.Generator, requests: int = 300, rows: int = 6) -> tuple[Float64s, Bools, Int64s]:
    """Logits on a coarse grid (ties), labels that follow them, and requests whose rows share an effect."""
    groups = np.repeat(np.arange(requests), rows)
    shared = rng.normal(size=requests)[groups]
    logits = np.round(rng.normal(size=len(groups)) + shared, 1) - 1
    labels = rng.random(len(groups)) < sigmoid(0.8 * logits + 0.3 * shared)
    return logits, labels, groups


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_scikit_learn(seed: int) -> None:
    # scikit-learn has no such mean: it is asked for every request by itself, so there are few.
    logits, labels, groups = sample(np.random.default_rng(seed), requests=60)
    assert auc(logits, labels).value == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    rate = labels.mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert normalised_entropy(logits, labels).value == pytest.approx(log_loss(labels, sigmoid(logits)) / entropy)
    assert calibration(logits, labels).value == pytest.approx(sigmoid(logits).mean() / rate)
    within, sizes = [], []
    for group in np.unique(groups):
        rows = groups == group
        if 0 < labels[rows].sum() < rows.sum():
            within.append(roc_auc_score(labels[rows], logits[rows]))
            sizes.append(rows.sum())
    assert auc_within(logits, labels, groups).value == pytest.approx(np.average(within, weights=sizes), abs=1e-12)


def test_the_definitions_for_weighted_rows_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels, _ = sample(rng)
    weights = rng.choice([1.0, 2.0, 10.0], len(logits))
    assert weighted_auc(labels, logits, weights) == pytest.approx(roc_auc_score(labels, logits, sample_weight=weights))
    loss = log_loss(labels, sigmoid(logits), sample_weight=weights)
    assert weighted_log_loss(labels, sigmoid(logits), weights) == pytest.approx(loss)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_auc_within_does_not_depend_on_the_order_of_rows(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    logits = np.array(data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n)))
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    order = np.array(data.draw(st.permutations(range(n))))
    first, second = auc_within(logits, labels, groups), auc_within(logits[order], labels[order], groups[order])
    np.testing.assert_allclose(first.value, second.value)
    np.testing.assert_allclose(first.rows[order], second.rows)


@pytest.mark.parametrize("metric", [auc, normalised_entropy, calibration])
def test_one_class_alone_has_no_figure(metric: object) -> None:
    logits = np.array([0.1, 0.2])
    for labels in (np.array([False, False]), np.array([], np.bool_)):
        result = metric(logits[: len(labels)], labels)  # type: ignore[operator]
        assert np.isnan(result.value)
        assert np.isnan(estimate(result, np.arange(len(labels))).low)


@pytest.mark.parametrize("metric", ["auc", "auc_within", "normalised_entropy", "calibration"])
def test_an_influence_is_what_leaving_a_row_out_changes(metric: str) -> None:
    logits, labels, groups = sample(np.random.default_rng(8), requests=150)
    functions = {
        "auc": lambda keep: auc(logits[keep], labels[keep]),
        "auc_within": lambda keep: auc_within(logits[keep], labels[keep], groups[keep]),
        "normalised_entropy": lambda keep: normalised_entropy(logits[keep], labels[keep]),
        "calibration": lambda keep: calibration(logits[keep], labels[keep]),
    }
    everything = np.ones(len(logits), np.bool_)
    whole = functions[metric](everything)
    assert whole.rows.mean() == pytest.approx(0, abs=1e-9)
    for left_out in range(0, 60, 6):
        keep = groups != groups[left_out]
        change = functions[metric](everything).value - functions[metric](keep).value
        assert change == pytest.approx(whole.rows[~keep].sum() / keep.sum(), abs=3e-4)


@pytest.mark.parametrize("metric", ["auc", "auc_within", "normalised_entropy", "calibration", "difference"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(metric: str) -> None:
    rng = np.random.default_rng(5)

    def influence(rng: np.random.Generator, requests: int):  # type: ignore[no-untyped-def]
        logits, labels, groups = sample(rng, requests)
        if metric == "auc_within":
            return auc_within(logits, labels, groups), groups
        if metric == "difference":
            # Two models that are equally good: the same logits, each with noise of its own.
            noisy = [auc(logits + rng.normal(size=len(logits)), labels) for _ in range(2)]
            return noisy, groups
        return {"auc": auc, "normalised_entropy": normalised_entropy, "calibration": calibration}[metric](
            logits, labels
        ), groups

    truth = 0.0 if metric == "difference" else influence(np.random.default_rng(99), 100_000)[0].value
    held = 0
    for _ in range(200):
        found, groups = influence(rng, 150)
        result = difference(*found, groups) if metric == "difference" else estimate(found, groups)
        held += result.low <= truth <= result.high
    assert 0.90 <= held / 200 <= 0.99


def test_rows_that_say_the_same_count_once() -> None:
    logits, labels, groups = sample(np.random.default_rng(1))
    once = estimate(calibration(logits, labels), groups)
    copies = [np.tile(column, 9) for column in (logits, labels, groups)]
    clustered = estimate(calibration(copies[0], copies[1]), copies[2])
    independent = estimate(calibration(copies[0], copies[1]), np.arange(len(copies[0])))
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert clustered.high - clustered.low > 2.5 * (independent.high - independent.low)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]


def test_time_blocks_follow_event_time_and_are_equally_filled() -> None:
    times = np.array([50, 10, 40, 20, 30, 60])
    assert time_blocks(times, 3).tolist() == [2, 0, 1, 0, 1, 2]


@pytest.mark.parametrize("seed", range(2))
def test_hard_cases_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Logits that float32 can hold and exp cannot, many ties, groups of one row and of one class.
    logits = rng.choice(np.float32([-1e4, -80, -1, 0, 0.5, 80, 1e4]), 400)
    labels = rng.random(400) < 0.3
    groups = rng.integers(0, 150, 400)
    assert auc(logits, labels).value == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    pairs = [groups == group for group in np.unique(groups)]
    usable = [rows for rows in pairs if 0 < labels[rows].sum() < rows.sum()]
    within = [roc_auc_score(labels[rows], logits[rows]) for rows in usable]
    expected = np.average(within, weights=[rows.sum() for rows in usable])
    assert auc_within(logits, labels, groups).value == pytest.approx(expected, abs=1e-12)
    mild = np.clip(logits, -15, 15).astype(np.float64)
    rate = labels.mean()
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert normalised_entropy(mild, labels).value == pytest.approx(log_loss(labels, sigmoid(mild)) / entropy, rel=1e-6)
    for metric in (auc, normalised_entropy, calibration):
        assert type(metric(logits, labels).value) is float


def test_scores_that_differ_in_the_last_bit_are_no_tie() -> None:
    logits = np.float32([3.0, np.nextafter(np.float32(3), np.float32(4))])
    assert auc(logits, np.array([False, True])).value == 1.0


def test_integer_labels_are_labels_and_no_indices() -> None:
    logits, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 1, 0, 1])
    for metric in (auc, normalised_entropy, calibration):
        assert metric(logits, labels).value == metric(logits, labels == 1).value  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels: 2 is neither 0 nor 1"):
        auc(logits, labels * 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", [auc, normalised_entropy, calibration])
def test_a_missing_score_is_refused_instead_of_ranked(metric: object) -> None:
    with pytest.raises(ValueError, match="NaN in row 2; leave out rows without a score"):
        metric(np.array([0.0, 1.0, np.nan]), np.array([False, True, True]))  # type: ignore[operator]
    with pytest.raises(ValueError, match="one of each per row"):
        metric(np.zeros(3), np.zeros(2, np.bool_))  # type: ignore[operator]


def test_a_certain_and_wrong_score_has_infinite_entropy_and_no_interval() -> None:
    found = estimate(normalised_entropy(np.array([np.inf, 0.0]), np.array([False, True])), np.arange(2))
    assert found.value == np.inf
    assert np.isnan(found.low)


def test_columns_of_other_rows_are_refused() -> None:
    logits, labels, groups = sample(np.random.default_rng(0), 20)
    one, other = auc(logits, labels), auc(logits[6:], labels[6:])
    with pytest.raises(ValueError, match="one judges 120 rows, the other 114"):
        difference(one, other, groups)
    with pytest.raises(ValueError, match="clusters: 114 values for 120 rows"):
        estimate(one, groups[6:])
    with pytest.raises(ValueError, match="groups: 114 values for 120 rows"):
        auc_within(logits, labels, groups[6:])


def test_a_single_cluster_tells_nothing() -> None:
    logits, labels, _ = sample(np.random.default_rng(0), 20)
    found = estimate(auc(logits, labels), np.zeros(len(labels)))
    assert (found.low, found.high, found.clusters) == (-np.inf, np.inf, 1)
    assert not found.excludes_zero


@pytest.mark.parametrize("freedom", [1, 1.02, 1.5, 2, 2.7, 3, 5, 10, 30, 31, 49, 1000])
def test_few_clusters_widen_an_interval_as_students_t_does(freedom: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    for confidence in (0.8, 0.95, 0.999):
        probability = 0.5 + confidence / 2
        assert _t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-4)


def test_an_estimate_prints_as_a_figure_with_its_interval() -> None:
    logits, labels, groups = sample(np.random.default_rng(0))
    found = estimate(normalised_entropy(logits, labels), groups)
    assert str(found) == f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    assert "np.float64" not in repr(found)


def test_the_example_of_the_documentation_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "quality.md").read_text("utf-8")
    code, printed = text.split("```python\n")[1].split("```\n")[:3:2]
    exec(code, {})  # noqa: S102  our own documentation
    assert capsys.readouterr().out == printed


def covered(
    rng: np.random.Generator, luck: tuple[float, ...], runs: int, *, rows: float, trials: int = 1_500
) -> tuple[float, float]:
    """How often an interval holds the truth, 0: without the spread of runs, and with it.

    :param luck: deviation that a seed brings to one run, of one setting, or of either of two that are compared.
    :param rows: deviation of the figure that other rows bring; those of two settings differ as much.
    """
    clusters, hit = np.arange(50), np.zeros(2)
    for _ in range(trials):
        settings, spreads = [], []
        for deviation in luck:
            noise = rng.normal(0, rows * np.sqrt(50 / len(luck)), 50)
            # A figure is what its rows say, and the influence of a row is what it says beyond the mean.
            values = noise.mean() + rng.normal(0, deviation, runs)
            settings.append(average([Influence(value, noise - noise.mean()) for value in values]))
            spread = spread_of_runs(values.tolist())
            assert spread is not None
            spreads.append(Spread(spread.variance / runs, spread.freedom))
        for at, added in enumerate((None, sum_of_spreads(spreads))):
            if len(luck) == 1:
                found = estimate(settings[0], clusters, spread=added)
            else:
                found = difference(settings[0], settings[1], clusters, spread=added)
            hit[at] += not found.excludes_zero
    return float(hit[0] / trials), float(hit[1] / trials)


@pytest.mark.simulation
@pytest.mark.parametrize("runs", [2, 3])
@pytest.mark.parametrize("luck", [(0.1,), (0.1, 0.1), (0.2, 0.05), (0.2, 0.0)])
@pytest.mark.parametrize("rows", [0.02, 0.1])
def test_what_another_seed_changes_is_in_the_interval_once_runs_were_repeated(
    luck: tuple[float, ...], runs: int, rows: float
) -> None:
    """Rows that every run shares say nothing of the luck of a run, and two runs little: they may happen to be alike."""
    of_rows, of_both = covered(np.random.default_rng(3), luck, runs, rows=rows)
    assert of_rows < 0.92
    # 95 % in expectation or a little less (one setting alone is lucky, by far more than the rows), up to 98 %.
    assert 0.93 < of_both < 0.99


def test_runs_that_are_alike_add_nothing() -> None:
    of_rows, of_both = covered(np.random.default_rng(4), (0.0, 0.0), 2, rows=0.1)
    assert of_rows == of_both == pytest.approx(0.95, abs=0.015)


def test_without_two_runs_of_a_setting_there_is_no_spread() -> None:
    assert spread_of_runs([0.5]) is None
    assert spread_of_runs([0.5, float("nan")]) is None
    assert sum_of_spreads([]) is None

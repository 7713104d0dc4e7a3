from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import LabelKind
from rillet.trainer import ScoreHistogram
from rillet.trainer.evaluation import row_weights
from tests.trainer.reference import weighted_auc, weighted_log_loss


def _sample(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits + rng.normal(size=rows)))).astype(np.uint8)
    rates = rng.choice([0.1, 0.5, 1.0], rows).astype(np.float32)
    return logits, labels, rates


def test_metrics_are_those_of_the_definitions_on_weighted_rows() -> None:
    logits, labels, rates = _sample(0, 5000)
    weights = np.where(labels == 1, 1.0, 1.0 / rates.astype(np.float64))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    histogram = ScoreHistogram()
    histogram.add(logits, labels, 1 - labels, rates)
    metrics = histogram.metrics()
    rate = np.average(labels, weights=weights)
    assert metrics.auc == pytest.approx(weighted_auc(labels, logits, weights), abs=1e-4)
    loss = weighted_log_loss(labels, probabilities, weights)
    base = weighted_log_loss(labels, np.full(len(labels), rate), weights)
    assert metrics.normalised_entropy == pytest.approx(loss / base, rel=1e-9)
    assert metrics.calibration == pytest.approx(np.average(probabilities, weights=weights) / rate, rel=1e-9)
    assert metrics.base_rate == pytest.approx(rate)
    assert metrics.rows == len(labels)


def test_merged_histograms_equal_one_over_all_rows() -> None:
    logits, labels, rates = _sample(1, 2000)
    whole, left, right = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
    kinds = 1 - labels
    whole.add(logits, labels, kinds, rates)
    left.add(logits[:700], labels[:700], kinds[:700], rates[:700])
    right.add(logits[700:], labels[700:], kinds[700:], rates[700:])
    left.merge(right)
    np.testing.assert_allclose(left.counts, whole.counts)
    np.testing.assert_allclose(left.sums, whole.sums)


def test_a_constant_score_has_auc_one_half() -> None:
    histogram = ScoreHistogram()
    labels = np.arange(100, dtype=np.uint8) % 2
    histogram.add(np.zeros(100, np.float32), labels, 1 - labels, np.ones(100, np.float32))
    assert histogram.metrics().auc == pytest.approx(0.5)


def test_scores_beyond_the_histogram_still_count_exactly_in_the_loss() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.float32([-80, 80]), np.uint8([1, 0]), np.uint8([0, 1]), np.ones(2, np.float32))
    metrics = histogram.metrics()
    assert metrics.auc == 0.0
    assert metrics.normalised_entropy == pytest.approx(160 / (2 * np.log(2)))


def test_one_class_alone_gives_no_auc_instead_of_a_wrong_one() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.zeros(3, np.float32), np.zeros(3, np.uint8), np.ones(3, np.uint8), np.ones(3, np.float32))
    metrics = histogram.metrics()
    assert np.isnan(metrics.auc)
    assert np.isnan(metrics.calibration)
    assert metrics.base_rate == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0.001, 8.0), st.booleans())
def test_binning_moves_the_auc_by_no_more_than_it_says(seed: int, spread: float, weighted: bool) -> None:
    logits, labels, rates = _sample(seed, 300)
    logits, rates = (logits * spread).astype(np.float32), rates if weighted else np.ones_like(rates)
    labels[:2] = 0, 1
    histogram = ScoreHistogram()
    histogram.add(logits, labels, 1 - labels, rates)
    metrics = histogram.metrics()
    weights = np.where(labels == 1, 1.0, 1.0 / rates.astype(np.float64))
    exact = weighted_auc(labels, logits, weights)
    assert abs(metrics.auc - exact) <= metrics.auc_error + 1e-12


def test_at_usual_spreads_the_error_of_the_auc_is_in_the_third_digit_at_most() -> None:
    for spread in (0.3, 1.0, 2.0):
        rng = np.random.default_rng(0)
        logits = rng.normal(-2, spread, 20_000).astype(np.float32)
        labels = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        histogram = ScoreHistogram()
        histogram.add(logits, labels, 1 - labels, np.ones(20_000, np.float32))
        metrics = histogram.metrics()
        assert metrics.auc_error < 0.0015 / spread
        assert metrics.auc == pytest.approx(weighted_auc(labels, logits), abs=1e-4)


def test_a_late_positive_takes_its_sampled_negative_away_exactly() -> None:
    rates = np.array([0.1, 0.1, 0.3], np.float32)
    labels, kinds = np.array([0, 1, 1], np.uint8), (LabelKind.NEGATIVE, LabelKind.LATE_POSITIVE, LabelKind.POSITIVE)
    negative, positive = row_weights(labels, np.array(kinds, np.uint8), rates)
    assert negative[0] + negative[1] == 0
    assert (negative[2], positive.tolist()) == (0, [0, 1, 1])


@pytest.mark.parametrize(
    ("first", "then"),
    [(LabelKind.PROVISIONAL, LabelKind.CORRECTION), (LabelKind.NEGATIVE, LabelKind.LATE_POSITIVE)],
)
def test_a_correction_of_a_kept_negative_leaves_the_pair_a_positive(first: LabelKind, then: LabelKind) -> None:
    logits, labels, _ = _sample(3, 1000)
    pairs, corrected = ScoreHistogram(), ScoreHistogram()
    ones = np.ones(1000, np.float32)
    pairs.add(logits, labels, np.where(labels, LabelKind.POSITIVE, LabelKind.NEGATIVE).astype(np.uint8), ones)
    acted = labels == 1
    # The corrections come first: the order of rows does not matter.
    corrected.add(logits[acted], labels[acted], np.full(acted.sum(), then, np.uint8), ones[acted])
    corrected.add(logits, np.zeros(1000, np.uint8), np.full(1000, first, np.uint8), ones)
    np.testing.assert_array_equal(corrected.counts, pairs.counts)
    np.testing.assert_allclose(corrected.sums[:2], pairs.sums[:2], rtol=1e-12)


def test_corrections_are_right_in_expectation_where_negatives_are_sampled() -> None:
    logits, labels, _ = _sample(4, 1000)
    acted = labels == 1
    exact = weighted_auc(labels, logits)
    predicted = 1 / (1 + np.exp(-logits.astype(np.float64)))
    rng = np.random.default_rng(0)
    total = ScoreHistogram()
    for _ in range(400):
        kept = rng.random(1000) < 0.2
        for rows, label, kind in ((kept, 0, LabelKind.PROVISIONAL), (acted, 1, LabelKind.CORRECTION)):
            n = int(rows.sum())
            total.add(
                logits[rows], np.full(n, label, np.uint8), np.full(n, kind, np.uint8), np.full(n, 0.2, np.float32)
            )
    metrics = total.metrics()
    assert metrics.auc == pytest.approx(exact, abs=0.003)
    assert metrics.calibration == pytest.approx(predicted.mean() / labels.mean(), rel=0.01)
    assert metrics.base_rate == pytest.approx(labels.mean(), rel=0.01)


@pytest.mark.parametrize("immediate", [False, True])
def test_negatives_kept_by_score_count_by_their_own_rates(immediate: bool) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-2, 1.5, 200_000).astype(np.float32)
    predicted = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = (rng.random(len(logits)) < predicted).astype(np.uint8)
    everything, sampled = ScoreHistogram(), ScoreHistogram()
    everything.add(logits, labels, 1 - labels, np.ones(len(logits), np.float32))
    rates = np.clip(0.1 * predicted / 0.18, 0.02, 1).astype(np.float32)
    kept = (rng.random(len(logits)) < rates) & (immediate | (labels == 0))
    kinds = (LabelKind.PROVISIONAL, LabelKind.CORRECTION) if immediate else (LabelKind.NEGATIVE, LabelKind.POSITIVE)
    for rows, label, kind in ((kept, 0, kinds[0]), (labels == 1, 1, kinds[1])):
        n = int(rows.sum())
        sampled.add(logits[rows], np.full(n, label, np.uint8), np.full(n, kind, np.uint8), rates[rows])
    found, due = sampled.metrics(), everything.metrics()
    assert found.rows < 0.35 * due.rows
    assert found.calibration == pytest.approx(due.calibration, rel=0.02)
    assert found.normalised_entropy == pytest.approx(due.normalised_entropy, rel=0.02)
    assert found.auc == pytest.approx(due.auc, abs=0.01)


def test_more_corrections_than_sampled_negatives_give_no_figure_instead_of_a_wrong_one() -> None:
    histogram = ScoreHistogram()
    histogram.add(
        np.zeros(2, np.float32),
        np.ones(2, np.uint8),
        np.full(2, LabelKind.CORRECTION, np.uint8),
        np.full(2, 0.1, np.float32),
    )
    assert np.isnan(histogram.metrics().auc)
    assert np.isnan(histogram.metrics().base_rate)

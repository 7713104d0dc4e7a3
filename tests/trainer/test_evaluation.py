from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from rillet.trainer import ScoreHistogram, WindowedMetrics


def _sample(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, rows).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits + rng.normal(size=rows)))).astype(np.uint8)
    rates = rng.choice([0.1, 0.5, 1.0], rows).astype(np.float32)
    return logits, labels, rates


def test_metrics_agree_with_scikit_learn_on_weighted_rows() -> None:
    logits, labels, rates = _sample(0, 5000)
    weights = np.where(labels == 1, 1.0, 1.0 / rates.astype(np.float64))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    histogram = ScoreHistogram()
    histogram.add(logits, labels, rates)
    metrics = histogram.metrics()
    rate = np.average(labels, weights=weights)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, logits, sample_weight=weights), abs=1e-4)
    loss = log_loss(labels, probabilities, sample_weight=weights)
    base = log_loss(labels, np.full(len(labels), rate), sample_weight=weights)
    assert metrics.normalised_entropy == pytest.approx(loss / base, rel=1e-9)
    assert metrics.calibration == pytest.approx(np.average(probabilities, weights=weights) / rate, rel=1e-9)
    assert metrics.base_rate == pytest.approx(rate)
    assert metrics.rows == len(labels)


def test_merged_histograms_equal_one_over_all_rows() -> None:
    logits, labels, rates = _sample(1, 2000)
    whole, left, right = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
    whole.add(logits, labels, rates)
    left.add(logits[:700], labels[:700], rates[:700])
    right.add(logits[700:], labels[700:], rates[700:])
    left.merge(right)
    np.testing.assert_allclose(left.counts, whole.counts)
    np.testing.assert_allclose(left.sums, whole.sums)


def test_a_constant_score_has_auc_one_half() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.zeros(100, np.float32), np.arange(100, dtype=np.uint8) % 2, np.ones(100, np.float32))
    assert histogram.metrics().auc == pytest.approx(0.5)


def test_scores_beyond_the_histogram_still_count_exactly_in_the_loss() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.float32([-80, 80]), np.uint8([1, 0]), np.ones(2, np.float32))
    metrics = histogram.metrics()
    assert metrics.auc == 0.0
    assert metrics.normalised_entropy == pytest.approx(160 / (2 * np.log(2)))


def test_one_class_alone_gives_no_auc_instead_of_a_wrong_one() -> None:
    histogram = ScoreHistogram()
    histogram.add(np.zeros(3, np.float32), np.zeros(3, np.uint8), np.ones(3, np.float32))
    metrics = histogram.metrics()
    assert np.isnan(metrics.auc)
    assert np.isnan(metrics.calibration)
    assert metrics.base_rate == 0


def test_the_window_forgets_old_rows_and_keeps_tasks_apart() -> None:
    window = WindowedMetrics(2, window_rows=100, parts=5)
    rates = np.ones(10, np.float32)
    labels = np.zeros((10, 2), np.uint8)
    labels[::2, 0] = 1
    mask = np.zeros((10, 2), np.uint8)
    mask[:, 0] = 1
    wrong = np.where(labels, -1, 1).astype(np.float32)
    for _ in range(20):
        window.add(wrong, labels, mask, rates)
    assert window.metrics(0).auc == 0.0
    assert window.metrics(1).rows == 0
    for _ in range(10):
        window.add(-wrong, labels, mask, rates)
    assert window.metrics(0).auc == 1.0
    assert window.metrics(0).rows <= 100


def test_rows_without_a_recorded_score_are_left_out() -> None:
    window = WindowedMetrics(1, window_rows=100, parts=5)
    logits = np.float32([[0.5], [np.nan], [-0.5]])
    window.add(logits, np.uint8([[1], [1], [0]]), np.ones((3, 1), np.uint8), np.ones(3, np.float32))
    assert window.metrics(0).rows == 2
    assert window.metrics(0).auc == 1.0


def test_a_restored_window_goes_on_like_the_first() -> None:
    logits, labels, rates = _sample(2, 400)
    first = WindowedMetrics(1, window_rows=200, parts=4)
    mask = np.ones((1, 1), np.uint8)
    second = WindowedMetrics(1, window_rows=200, parts=4)
    for start in range(0, 400, 40):
        if start == 200:
            second.load_state({name: array.copy() for name, array in first.state().items()})
        rows = slice(start, start + 40)
        for window in (first, second):
            window.add(logits[rows, None], labels[rows, None], np.repeat(mask, 40, 0), rates[rows])
    assert first.metrics(0) == second.metrics(0)

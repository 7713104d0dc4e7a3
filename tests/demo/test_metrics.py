"""The report's figures agree with scikit-learn and with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rillet.demo.metrics import RunningAuc, auc, calibration, histogram_quantile, sigmoid, windowed_auc


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_scikit_learn(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(500) < 0.2
    scores = rng.normal(labels * 0.7)
    scores = scores.round(1) if ties else scores
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_one_class_does_not_exist() -> None:
    assert math.isnan(auc(np.ones(3), np.ones(3, np.bool_)))
    assert math.isnan(auc(np.empty(0), np.empty(0, np.bool_)))


def test_calibration_is_mean_predicted_over_observed() -> None:
    logits = np.log(np.array([0.2, 0.4]) / np.array([0.8, 0.6]))
    assert calibration(logits, np.array([True, False])) == pytest.approx(0.3 / 0.5)
    assert math.isnan(calibration(logits, np.array([False, False])))


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]


def test_windowed_auc_judges_each_group_alone() -> None:
    scores = np.array([0.1, 0.9, 0.9, 0.1])
    labels = np.array([False, True, False, True])
    assert windowed_auc(scores, labels, np.array([0, 0, 1, 1]), 2) == [1.0, 0.0]


def test_histogram_quantile_is_linear_within_its_bucket() -> None:
    bounds, cumulative = [1.0, 2.0, 4.0, math.inf], [0.0, 10.0, 20.0, 20.0]
    assert histogram_quantile(bounds, cumulative, 0.25) == 1.5
    assert histogram_quantile(bounds, cumulative, 0.5) == 2.0
    assert histogram_quantile(bounds, cumulative, 0.75) == 3.0
    assert histogram_quantile(bounds, [0.0, 0.0, 1.0, 100.0], 0.99) == math.inf  # beyond the last finite bound
    assert math.isnan(histogram_quantile(bounds, [0.0] * 4, 0.5))
    assert math.isnan(histogram_quantile([], [], 0.5))


def test_running_auc_follows_the_newest_scores() -> None:
    rng = np.random.default_rng(0)
    running = RunningAuc(window=2000)
    assert math.isnan(running.value())
    for step in range(100):
        labels = rng.random(100) < 0.3
        # From step 50 on the scores are turned round.
        logits = rng.normal(size=100) + 2 * labels * (1 if step < 50 else -1)
        running.add(logits, labels)
        if step == 49:
            assert running.value() == pytest.approx(0.92, abs=0.02)
    assert running.value() == pytest.approx(0.08, abs=0.02)


def test_running_auc_counts_ties_half() -> None:
    running = RunningAuc(window=10_000)
    running.add(np.zeros(10), np.arange(10) < 3)
    assert running.value() == 0.5

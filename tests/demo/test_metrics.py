"""What the demo shows agrees with scikit-learn and with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rillet.demo.metrics import RunningAuc, histogram_quantile, windowed_auc


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

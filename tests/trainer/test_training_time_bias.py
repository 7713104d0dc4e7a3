"""Why what is predicted while training is no measure of quality: docs/quality.md gives the numbers of this test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rillet.trainer.quality import auc
from tests.trainer.simulated_serving import Judged, simulate

pytestmark = pytest.mark.simulation


def auc_after(judged: Judged, start_ms: int) -> float:
    rows = judged.time_ms >= start_ms
    return auc(judged.logits[rows], judged.labels[rows]).value


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("users", "at_least"),
    [(1_500, 0.008), (100_000, 0.02)],
    ids=["users come back", "most users are new"],
)
def test_predictions_at_training_time_look_worse_than_what_was_served(users: int, at_least: float) -> None:
    run = simulate("logistic", requests=1_500, users=users, dense_learning_rate=0.03)
    # Publication is immediate: the two differ by nothing but when a row was judged.
    times = run.served.time_ms
    start_ms = int(np.quantile(times, 0.3))
    served, training = auc_after(run.served, start_ms), auc_after(run.training, start_ms)
    assert at_least < served - training < 0.06
    assert served > 0.56


def test_the_trainer_tells_the_quality_of_what_was_served() -> None:
    run = simulate("logistic", requests=400, users=100_000, dense_learning_rate=0.03)
    known = run.trainer.quality.known(0)
    assert known is not None
    judged = run.served
    rows = (judged.time_ms >= known.start_ms) & (judged.time_ms < known.end_ms)
    assert known.metrics.rows == rows.sum() >= 1_500
    exact = auc(judged.logits[rows], judged.labels[rows]).value
    assert abs(known.metrics.auc - exact) <= known.metrics.auc_error

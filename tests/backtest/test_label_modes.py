"""What the whole loop learns from the rows of mode immediate: soon from nothing, and calibrated while traffic changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rillet.backtest import Delays, backtest
from rillet.jobs.config import RilletConfig
from rillet.recordings import Recording
from rillet.recordings.films import FilmsConfig, films_spec, generate_films
from rillet.recordings.known_truth import read_truth
from rillet.schemas.arrays import Bools, Float64s
from rillet.schemas.spec import LabelMode
from rillet.trainer.config import ModelConfig
from rillet.trainer.quality import auc, sigmoid

pytestmark = pytest.mark.simulation

CONFIG = RilletConfig(spec=Path("films.spec.toml"), model=ModelConfig(name="films", dim=8, hidden=(32,)))


def _run(
    folder: Path, films: FilmsConfig, requests: int, labels: LabelMode, delays: Delays
) -> tuple[Float64s, Float64s, Float64s, Bools]:
    """Of each impression: seconds since the beginning, score as served, true rate, label."""
    generate_films(folder / "films", requests=requests, spec=films_spec(labels=labels), config=films)
    recording = Recording(folder / "films")
    report = backtest(recording, CONFIG, delays=delays, baselines=False)
    events = list(recording.features())
    after_ms = np.repeat(
        [event.event_time_ms - films.start_ms for event in events], [len(event.impression_ids) for event in events]
    )
    scores = sigmoid(report.logits["model"][:, 0])
    truth = read_truth(recording.directory)[:, 0].astype(np.float64)
    return after_ms / 1000, scores, truth, report.expected.positive[:, 0]


def test_a_model_without_history_is_right_within_90_seconds_and_never_promises_twice_the_truth(tmp_path: Path) -> None:
    after_s, scores, truth, labels = _run(tmp_path, FilmsConfig(), 1_250, "immediate", Delays.of(CONFIG))
    judged = (after_s >= 90) & (after_s < 120)
    for rate in (0.70, 0.05):
        assert 0.75 < scores[judged & np.isclose(truth, rate)].mean() / rate < 1.25
    best = auc(truth[judged], labels[judged]).value
    assert auc(scores[judged], labels[judged]).value > 0.9 * best
    stretch = (after_s // 10).astype(np.int64)
    mean_scores = np.bincount(stretch, scores) / np.bincount(stretch)
    assert mean_scores.max() < 2 * truth.mean()
    assert scores[0] < 0.1 * truth.mean(), "before its first label it promises little"


def test_scores_stay_calibrated_while_traffic_triples_within_an_hour_and_falls_again(tmp_path: Path) -> None:
    # Few requests make a quick test, so the intervals are longer than by default.
    films = FilmsConfig(slowest_ms=300_000, requests_per_s=0.25, peak=3.0, ramp_start_s=5_000)
    after_s, scores, truth, _ = _run(tmp_path, films, 4_850, "immediate", Delays(30_000, 60_000, 60_000))
    for begin in (5_000, 6_800, 8_600, 10_400):
        part = (after_s >= begin) & (after_s < begin + 1_800)
        assert 0.9 < scores[part].mean() / truth[part].mean() < 1.1


def test_positives_first_promises_too_much_until_a_window_has_closed(tmp_path: Path) -> None:
    after_s, scores, truth, _ = _run(tmp_path, FilmsConfig(), 1_250, "positives_first", Delays.of(CONFIG))
    assert scores[after_s > 90].mean() > 2 * truth.mean()

"""Learning lasts: over two weeks of event time that drift all the while, the last days are predicted as well as the first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rillet.embeddings import TableConfig
from rillet.schemas import NO_TIME_MS, ExampleBlock, LabelKind, make_fids, parse_spec
from rillet.schemas.arrays import Float64s
from rillet.schemas.example_rows import split_rows
from rillet.trainer import ModelConfig, OnlineTrainer, TrainerConfig
from rillet.trainer.quality import sigmoid

pytestmark = pytest.mark.simulation

SPEC = parse_spec(
    """
[spec]
name = "films"
[[context]]
name = "segment"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "genre"
slot = 17
kind = "id"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 600_000
labels = "positives_first"
"""
)
_SEGMENTS, _GENRES, _FILMS, _DAYS, _ROWS_PER_HOUR = 4, 8, 100, 14, 500
_HOUR_MS, _START_MS = 3_600_000, 1_700_000_000_000
#: of a segment for a genre: deviation in log-odds, and that of the random walk within an hour
_TASTE, _DRIFT = 1.0, 0.04
#: share of the films that are others an hour later
_RENEWED = 0.003


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def known(table: TableConfig, seed: int) -> Float64s:
    """How much of what there is to know was known before each hour, by day: 1 is the truth, 0 as good as the mean rate.

    One minus the distance (Kullback-Leibler) of predictions to the truth over that of the mean rate.
    """
    rng = np.random.default_rng(seed)
    config = TrainerConfig(quality_stretch_ms=600_000)
    trainer = OnlineTrainer(SPEC, ModelConfig(dim=4, hidden=(8,)), table, config)
    genre = rng.integers(0, _GENRES, _FILMS)
    taste, appeal = rng.normal(0, _TASTE, (_SEGMENTS, _GENRES)), rng.normal(0, 0.7, _FILMS)
    distance, of_mean_rate = np.zeros(_DAYS), np.zeros(_DAYS)
    for hour in range(24 * _DAYS):
        taste = taste * np.sqrt(1 - (_DRIFT / _TASTE) ** 2) + rng.normal(0, _DRIFT, taste.shape)
        appeal = np.where(rng.random(_FILMS) < _RENEWED, rng.normal(0, 0.7, _FILMS), appeal)
        segment, film = (rng.integers(0, count, _ROWS_PER_HOUR) for count in (_SEGMENTS, _FILMS))
        true = sigmoid(taste[segment, genre[film]] + appeal[film] - 2.0)
        columns = ((1, segment), (16, film), (17, genre[film]))
        fids = np.stack([make_fids(slot, values + 1) for slot, values in columns], axis=1)
        with torch.inference_mode():
            rows = torch.from_numpy(trainer.table.values(fids.reshape(-1)).reshape(*fids.shape, -1))
            logits = trainer.learner.model(rows, torch.zeros(len(rows), 0)).numpy()[:, 0]
        distance[hour // 24] += _divergence(true, sigmoid(logits))
        of_mean_rate[hour // 24] += _divergence(true, np.full(len(true), true.mean()))
        positive = rng.random(len(film)) < true
        trainer.offer(0, hour, _block(fids.reshape(-1), positive, _START_MS + hour * _HOUR_MS), 0)
        trainer.train(0, more=False, flush=True)
    return 1 - distance / of_mean_rate


def _divergence(true: Float64s, predicted: Float64s) -> float:
    return float(np.mean(true * np.log(true / predicted) + (1 - true) * np.log((1 - true) / (1 - predicted))))


def _block(fids: np.ndarray, positive: np.ndarray, time_ms: int) -> ExampleBlock:
    n = len(positive)
    times = np.full(n, time_ms)
    action_times = np.where(positive, time_ms, NO_TIME_MS)
    return ExampleBlock(
        spec_hash=SPEC.hash,
        bucket=0,
        impression_ids=np.arange(n),
        **split_rows(SPEC, ["r"], np.zeros(n, np.int32), fids, None),
        dense=np.empty(0, np.float32),
        labels=positive.astype(np.uint8),
        mask=np.ones(n, np.uint8),
        sampling_rate=np.ones(n, np.float32),
        label_kind=np.where(positive, LabelKind.POSITIVE, LabelKind.NEGATIVE).astype(np.uint8),
        feature_time_ms=times,
        action_time_ms=action_times,
        feature_ingest_ms=times,
        action_ingest_ms=action_times,
    )


def test_with_the_default_optimizer_quality_does_not_sink_from_the_first_days_to_the_last() -> None:
    by_day = np.mean([known(TableConfig(), seed) for seed in range(2)], axis=0)
    assert by_day[-4:].mean() > by_day[1:5].mean() - 0.02


def test_without_decay_adagrad_falls_behind() -> None:
    decayed, endless = (
        np.mean([known(TableConfig(accumulator_half_life_s=half_life_s), seed) for seed in range(2)], axis=0)
        for half_life_s in (86_400.0, 0.0)
    )
    assert decayed[-4:].mean() > endless[-4:].mean() + 0.05

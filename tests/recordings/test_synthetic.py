"""The synthetic shop: its labels follow the probabilities that it writes down, which drift."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rillet.audit.plain_join import PlainJoin
from rillet.recordings import Recording, RecordingError
from rillet.recordings.known_truth import read_truth
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_events, synthetic_spec
from rillet.schemas import ActionEvent, FeatureEvent, encode

CONFIG = ShopConfig(users=300, items=100, gap_ms=20_000.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("synthetic")
    generate_synthetic(out, requests=1500, seed=4, config=CONFIG)
    return Recording(out)


def test_every_label_was_drawn_with_its_true_probability(recording: Recording) -> None:
    truth = read_truth(recording.directory)
    join = PlainJoin(synthetic_spec())
    for feature in recording.features():
        join.add_feature(feature)
    for action in recording.actions():
        join.add_action(action)
    labels = join.result().positive
    assert truth.shape == labels.shape == (15_000, 2)
    for task in range(2):
        p = truth[:, task].astype(np.float64)
        # The sum of independent draws lies within four standard deviations of its mean, in each fifth by probability.
        for rows in np.array_split(np.argsort(p), 5):
            assert abs(labels[rows, task].sum() - p[rows].sum()) < 4 * np.sqrt((p[rows] * (1 - p[rows])).sum()) + 1


def test_tastes_drift(recording: Recording) -> None:
    clicks: dict[tuple[int, int], list[tuple[int, float]]] = {}
    truth = read_truth(recording.directory)
    row = 0
    for event in recording.features():
        for item in event.impression_ids.tolist():
            clicks.setdefault((int(event.context_fids[1]), item), []).append((event.event_time_ms, truth[row, 0]))
            row += 1
    early_late = [(seen[0][1], seen[-1][1]) for seen in clicks.values() if seen[-1][0] - seen[0][0] > 4 * 3_600_000]
    early, late = np.array(early_late).T
    assert np.corrcoef(early, late)[0, 1] < 0.95
    assert np.abs(early - late).mean() > 0.02


def test_events_are_in_time_order_and_a_buy_follows_its_click() -> None:
    clicked: set[tuple[str, int]] = set()
    last = 0
    for event, truth in synthetic_events(300, config=CONFIG):
        assert event.event_time_ms >= last
        last = event.event_time_ms
        assert (truth is not None) == isinstance(event, FeatureEvent)
        if isinstance(event, ActionEvent):
            key = (event.request_id, event.impression_id)
            assert event.action == "click" or key in clicked
            clicked.add(key)


def test_the_seed_decides_everything() -> None:
    once, again, other = (
        [encode(event) for event, _ in synthetic_events(60, seed=seed, config=CONFIG)] for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_other_recordings_have_no_truth(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"truth\.npy"):
        read_truth(tmp_path)


def test_an_impossible_shop_is_refused() -> None:
    with pytest.raises(ValueError, match="candidates"):
        ShopConfig(items=5)
    with pytest.raises(ValueError, match="users"):
        ShopConfig(users=0)

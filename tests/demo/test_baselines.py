"""Scores that live ones are held against: of every impression, in the order in which they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from rillet.audit.plain_join import PlainJoin
from rillet.backtest.delays import Delays
from rillet.demo.baselines import BASELINES, References, reference_scores, scored_beside
from rillet.demo.errors import DemoError
from rillet.demo.report import impressions_of, in_event_order
from rillet.jobs.config import parse_config
from rillet.recordings import Recording
from rillet.recordings.known_truth import read_truth
from rillet.recordings.synthetic import ShopConfig, generate_synthetic


def test_every_impression_has_its_own_scores_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    generate_synthetic(tmp_path, requests=60, config=ShopConfig(users=10, items=12, gap_ms=60_000.0))
    recording = Recording(tmp_path)
    features = list(recording.features())
    join = PlainJoin(recording.info.spec)
    for event in reversed(features[20:]):
        join.add_feature(event)
    joined = join.result()
    requests = in_event_order(joined)

    references = reference_scores(
        recording,
        parse_config({"spec": "spec.toml"}),
        Delays(commit_ms=1_000, publish_ms=60_000, dense_ms=60_000),
        requests=60,
    )
    scores = references.of(joined, requests)

    assert set(scores) == {*BASELINES, "truth"}
    rows = len(impressions_of(joined, requests))
    assert {name: logits.shape for name, logits in scores.items()} == dict.fromkeys(scores, (rows, 2))
    p = read_truth(tmp_path)[-rows:]
    np.testing.assert_allclose(scores["truth"], np.log(p / (1 - p)), rtol=1e-3)
    assert len(np.unique(scores["popularity"][:, 0])) > 2


@pytest.fixture
def beside(tmp_path: Path) -> AbstractContextManager[Callable[[], References]]:
    generate_synthetic(tmp_path, requests=10, config=ShopConfig(users=10, items=12, gap_ms=60_000.0))
    config = parse_config({"spec": "spec.toml"})
    return scored_beside(
        Recording(tmp_path), config, Delays(commit_ms=1_000, publish_ms=60_000, dense_ms=60_000), requests=10
    )


def test_a_scoring_process_that_was_killed_is_told(beside: AbstractContextManager[Callable[[], References]]) -> None:
    with beside as references:
        (process,) = active_children()
        process.kill()
        with pytest.raises(DemoError, match="died"):
            references()


def test_the_scoring_process_ends_with_the_demo(beside: AbstractContextManager[Callable[[], References]]) -> None:
    def interrupted() -> None:
        with beside:
            assert active_children()
            raise KeyboardInterrupt

    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    while active_children():
        assert time.monotonic() < began_s + 5
        time.sleep(0.01)

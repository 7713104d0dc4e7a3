"""The simulated loop: nobody knows a label before its time, delays hold, and the rows are those of the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.audit import comparison, plain_join
from rillet.backtest.joining import SimulatedJoin
from rillet.backtest.loop import Delays, _events, _run, backtest
from rillet.backtest.scorers import PopularityScorer
from rillet.jobs.config import RilletConfig
from rillet.joiner import JoinerConfig
from rillet.recordings import Event, Recording
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import ExampleBlock, FeatureEvent
from rillet.schemas.arrays import Float32s
from rillet.trainer.config import ModelConfig, TrainerConfig

DELAYS = Delays(commit_ms=2_000, publish_ms=10_000, dense_ms=30_000, apply_ms=500)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=1_500)
    return Recording(folder)


@pytest.fixture(scope="module")
def events(recording: Recording) -> list[Event]:
    return _events(recording, recording.info.requests)


def simulated_join(recording: Recording, folder: Path, **changed: int) -> SimulatedJoin:
    settings = {"lateness_ms": 1_000, "commit_ms": DELAYS.commit_ms} | changed
    return SimulatedJoin(recording.info.spec, JoinerConfig(), directory=folder / "joiner", **settings)


class Spy:
    """Notes when each request was scored and when its labels came."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.now_ms = 0
        self.learned: dict[str, int] = {}
        self.published: list[int] = []
        self.dense: list[int] = []
        #: event time of a request, and the publication that it was scored by
        self.scored: list[tuple[int, int]] = []

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        for request_id in block.request_ids:
            self.learned.setdefault(request_id, visible_ms)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        self.published.append(now_ms)
        if dense:
            self.dense.append(now_ms)

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        for event in requests:
            assert event.request_id not in self.learned, "scored by a model that knew its label"
            self.scored.append((event.event_time_ms, self.published[-1] if self.published else 0))
        return np.zeros((sum(len(event.impression_ids) for event in requests), self.tasks), np.float32)


def test_no_request_is_scored_by_a_model_that_knows_its_labels(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spy = Spy(len(recording.info.spec.tasks))
    join = simulated_join(recording, tmp_path)
    _run(events, {"spy": spy}, join, DELAYS, lambda done: None)
    assert len(spy.scored) == recording.info.requests
    assert len(spy.learned) > 0.9 * recording.info.requests


def test_a_request_is_scored_by_the_last_publication_that_was_applied(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spy = Spy(len(recording.info.spec.tasks))
    _run(events, {"spy": spy}, simulated_join(recording, tmp_path), DELAYS, lambda done: None)
    start = events[0].event_time_ms
    for time_ms, published_ms in spy.scored:
        if time_ms >= start + DELAYS.publish_ms + DELAYS.apply_ms:
            assert 0 <= time_ms - DELAYS.apply_ms - published_ms < DELAYS.publish_ms
            assert (published_ms - start) % DELAYS.publish_ms == 0
        else:
            assert published_ms == 0
    assert all(b - a >= DELAYS.dense_ms for a, b in zip(spy.dense, spy.dense[1:], strict=False))


def test_labels_come_with_the_commit_after_their_event(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    join = simulated_join(recording, tmp_path)
    for event in events[:600]:
        join.take(event)
    found = join.visible(1 << 62)
    assert found
    for visible_ms, block in found:
        assert visible_ms % DELAYS.commit_ms == 0
        newest = max(block.feature_time_ms.max(), block.action_time_ms.max())
        assert visible_ms > newest
        positive = block.action_time_ms > 0
        if positive.all():
            assert visible_ms - block.action_time_ms.max() <= DELAYS.commit_ms


def test_without_delays_labels_come_at_once_and_every_request_has_a_publication_of_its_own(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spy = Spy(len(recording.info.spec.tasks))
    _run(
        events[:300],
        {"spy": spy},
        simulated_join(recording, tmp_path, commit_ms=0),
        Delays(0, 0, 0),
        lambda done: None,
    )
    assert all(time_ms == published_ms for time_ms, published_ms in spy.scored)


def test_the_rows_are_those_that_the_audit_expects(recording: Recording, events: list[Event], tmp_path: Path) -> None:
    spec = recording.info.spec
    join, plain = simulated_join(recording, tmp_path), plain_join.PlainJoin(spec)
    for event in events:
        join.take(event)
        plain.add_feature(event, event.event_time_ms) if isinstance(event, FeatureEvent) else plain.add_action(
            event, event.event_time_ms
        )
    join.finish()
    audit = comparison.audit_examples(plain.result(), [block for _, block in join.visible(1 << 62)])
    assert audit.ok, audit.lines()
    assert audit.found == audit.expected > 1_000
    assert not join.refused
    join.close()


def test_an_absent_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="publish_ms: -1 is negative"):
        Delays(0, -1, 0)


def test_what_learns_beats_what_was_frozen_and_popularity_is_no_probability(recording: Recording) -> None:
    config = RilletConfig(
        spec=Path("unused"),
        model=ModelConfig(kind="logistic", dim=0),
        trainer=TrainerConfig(batch_size=64),
    )
    report = backtest(recording, config, delays=DELAYS)
    learned, frozen = (report.estimate(name, "auc") for name in ("model", "frozen"))
    assert learned.value > 0.5
    assert learned.low < learned.value < learned.high
    assert report.difference("model", "frozen", "auc").value == pytest.approx(learned.value - frozen.value)
    figures = report.to_json()["tasks"][recording.info.spec.tasks[0].name]
    assert set(figures) == {"model", "frozen", "popularity", "decayed_popularity"}
    assert set(figures["popularity"]) == {"auc", "auc_within"}
    assert report.judged.sum() < len(report.judged)
    assert str(round(learned.value, 4)) in report.table()


def test_the_same_recording_gives_the_same_scores(recording: Recording) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic", dim=0))
    first, second, other = (
        backtest(recording, changed, delays=DELAYS, requests=300, baselines=False).logits["model"]
        for changed in (config, config, replace(config, trainer=TrainerConfig(batch_size=32)))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_popularity_counts_positives_and_fades_with_time(recording: Recording, events: list[Event]) -> None:
    spec = recording.info.spec
    request = next(event for event in events if isinstance(event, FeatureEvent))
    plain, fading = PopularityScorer(spec), PopularityScorer(spec, half_life_ms=1_000)
    join = SimulatedJoin(spec, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=Path("/nonexistent"))
    for event in events:
        join.take(event)
    blocks = join.visible(1 << 62)
    for scorer in (plain, fading):
        assert not scorer.score([request]).any()
        for visible_ms, block in blocks:
            scorer.learn(visible_ms, block)
        assert not scorer.score([request]).any(), "nothing is served before it was published"
        scorer.publish(0, dense=False)
        assert scorer.score([request]).any()
    assert np.exp(plain.score([request])).max() - 1 == pytest.approx(
        round(float(np.exp(plain.score([request])).max()) - 1)
    )

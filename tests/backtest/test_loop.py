"""The simulated loop: nobody knows a label before its time, delays hold, and the rows are those of the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rillet.audit import comparison, plain_join
from rillet.backtest.delays import Delays
from rillet.backtest.errors import BacktestError
from rillet.backtest.events import load_events, under_spec
from rillet.backtest.loop import _run, backtest, run_scorers
from rillet.backtest.names import METRICS
from rillet.backtest.results import check_judgeable
from rillet.backtest.settings import Setup
from rillet.backtest.specs import vary_spec
from rillet.jobs.config import RilletConfig
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.recordings import Event, Recording, RecordingWriter
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import ExampleBlock, FeatureEvent
from rillet.schemas.arrays import Float32s
from rillet.schemas.negative_rates import RateByScore
from rillet.trainer.config import ModelConfig, TrainerConfig
from tests.backtest.events import SPEC, action, request, write_recording

DELAYS = Delays(commit_ms=2_000, publish_ms=10_000, dense_ms=30_000, apply_ms=500)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=800)
    return Recording(folder)


@pytest.fixture(scope="module")
def events(recording: Recording) -> list[Event]:
    return load_events(recording)


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

    def close(self) -> None:
        pass


def test_no_request_is_scored_by_a_model_that_knows_its_labels(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spy = Spy(len(recording.info.spec.tasks))
    join = simulated_join(recording, tmp_path)
    _run(events, {"spy": spy}, join, DELAYS, lambda done: None)
    assert len(spy.scored) == recording.info.requests
    assert len(spy.learned) > 0.75 * recording.info.requests, "those whose labels came before the last request"


def test_a_request_is_scored_by_the_last_publication_that_was_applied(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spy = Spy(len(recording.info.spec.tasks))
    _run(events, {"spy": spy}, simulated_join(recording, tmp_path), DELAYS, lambda done: None)
    start = events[0].event_time_ms
    for time_ms, published_ms in spy.scored:
        if time_ms > start + DELAYS.publish_ms + DELAYS.apply_ms:
            assert 0 < time_ms - DELAYS.apply_ms - published_ms <= DELAYS.publish_ms
            assert (published_ms - start) % DELAYS.publish_ms == 0
        else:
            assert published_ms == 0
    assert all(b - a >= DELAYS.dense_ms for a, b in zip(spy.dense, spy.dense[1:], strict=False))


def test_a_sample_by_score_is_by_the_scores_of_the_model_of_the_loop(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    recorded = recording.info.spec
    rule = RateByScore(mean_score=0.5, floor=0.1)
    spec = replace(recorded, tasks=tuple(replace(task, rate_by_score=rule) for task in recorded.tasks))
    learned: list[ExampleBlock] = []

    class Model(Spy):
        def learn(self, visible_ms: int, block: ExampleBlock) -> None:
            learned.append(block)

        def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
            ids = np.concatenate([event.impression_ids for event in requests])
            return np.stack([np.float32(ids % 7) - 3, np.float32(ids % 5)], axis=1)

    config = RilletConfig(spec=tmp_path / "none.toml")
    run_scorers(events[:600], recorded, Setup(config, spec, DELAYS), {"model": Model(2)})
    ids, logits, rates, task = (
        np.concatenate([np.asarray(one(block)) for block in learned])
        for one in (
            lambda b: b.impression_ids,
            lambda b: b.served_logits.reshape(-1, 2),
            lambda b: b.sampling_rate,
            lambda b: b.mask.reshape(-1, 2).argmax(axis=1),
        )
    )
    assert len(ids) > 300
    np.testing.assert_array_equal(logits, np.stack([ids % 7 - 3, ids % 5], axis=1))
    base = np.array([one.negative_rate for one in spec.tasks])[task]
    wanted = np.clip(base * 2 / (1 + np.exp(-logits[np.arange(len(ids)), task])), 0.1, 1)
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


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
    first_ms = events[0].event_time_ms
    assert all(published_ms == time_ms - 1 for time_ms, published_ms in spy.scored if time_ms > first_ms)


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


def test_every_baseline_stands_beside_the_model_with_all_figures(recording: Recording) -> None:
    config = RilletConfig(
        spec=Path("unused"),
        model=ModelConfig(kind="logistic", dim=0),
        trainer=TrainerConfig(batch_size=64),
    )
    report = backtest(recording, config, delays=DELAYS, requests=300)
    learned, frozen = (report.estimate(name, "auc") for name in ("model", "frozen"))
    assert learned.value > 0.5
    assert learned.low < learned.value < learned.high
    assert report.difference("model", "frozen", "auc").value == pytest.approx(learned.value - frozen.value)
    figures = report.to_json()["tasks"][recording.info.spec.tasks[0].name]
    assert set(figures) == {"model", "frozen", "popularity", "decayed_popularity"}
    assert set(figures["popularity"]) == set(METRICS)
    assert report.judged[:, 0].sum() < len(report.judged)
    assert str(round(learned.value, 4)) in report.table()


@pytest.mark.simulation
def test_logistic_regression_stands_beside_another_model_and_equals_a_run_of_its_own(recording: Recording) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="deepfm", dim=4))
    beside = backtest(recording, config, delays=DELAYS, requests=300, baselines=["logistic"])
    assert list(beside.logits) == ["model", "logistic"]
    logistic = replace(config, model=replace(config.model, kind="logistic"))
    alone = backtest(recording, logistic, delays=DELAYS, requests=300, baselines=["logistic"])
    assert list(alone.logits) == ["model"], "a baseline that is the model itself says nothing"
    np.testing.assert_array_equal(beside.logits["logistic"], alone.logits["model"])


@pytest.mark.simulation
@pytest.mark.parametrize("apply_ms", [0, 500, 60_000])
def test_the_frozen_model_is_the_model_until_judging_begins_and_stands_still_from_then_on(
    recording: Recording, apply_ms: int
) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic"), trainer=TrainerConfig(batch_size=32))
    delays = replace(DELAYS, apply_ms=apply_ms)
    report = backtest(recording, config, delays=delays, judge_from=0.5, baselines=["frozen"])
    model, frozen = report.logits["model"], report.logits["frozen"]
    first = int(np.flatnonzero(report.judged[:, 0])[0])
    np.testing.assert_array_equal(model[:first], frozen[:first])
    at_judging = report.expected.feature_time_ms[report.expected.request] <= report.judged_from_ms
    np.testing.assert_array_equal(model[at_judging], frozen[at_judging])
    assert np.ptp(model[:first]) > 0, "something was learned by then"
    # The model goes on with the next publication, also where it takes a minute to be applied.
    times = report.expected.feature_time_ms[report.expected.request]
    differ = times[(model != frozen).any(axis=1)]
    assert report.judged_from_ms < differ.min() <= report.judged_from_ms + DELAYS.publish_ms + DELAYS.commit_ms


def test_rows_that_reached_the_model_are_counted_by_task_and_class(recording: Recording) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic"))
    aligned = vary_spec(recording.info.spec, {"tasks.click.labels": "aligned", "tasks.buy.labels": "aligned"})
    reports = [backtest(recording, config, spec=spec, requests=400, baselines=False) for spec in (None, aligned)]
    (clicks, buys), of_aligned = (report.learned["model"] for report in reports)
    assert clicks.min() > 10
    assert buys[0] > 0
    assert of_aligned.tolist() == [[0, 0], [0, 0]], "no window of ten minutes closed within the first minute"
    assert "click, model: no row was learned from" in reports[1].table()


@pytest.mark.simulation
def test_a_recording_that_was_cut_is_judged_like_the_whole_one(recording: Recording, tmp_path: Path) -> None:
    first = min(event.event_time_ms for event in recording.features())
    short = replace(
        recording.info.spec, tasks=tuple(replace(task, window_ms=100_000) for task in recording.info.spec.tasks)
    )
    folders = []
    for cut_ms in (1 << 62, first + 270_000):  # of 400 s
        folders.append(tmp_path / str(cut_ms))
        with RecordingWriter(folders[-1], short, "cut") as writer:
            for event in under_spec(recording.events(), recording.info.spec, short):
                if event.event_time_ms <= cut_ms:
                    writer.write(event)
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic"))
    whole, cut = (backtest(Recording(folder), config, judge_from=0.1, baselines=False) for folder in folders)
    rows = np.flatnonzero(cut.judged[:, 0])
    assert 0 < cut.left_out[0] < len(rows)
    np.testing.assert_array_equal(cut.expected.positive[rows], whole.expected.positive[rows])


def test_a_recording_that_ends_before_any_window_closes_is_refused_before_its_figures(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r", [request(str(at), at) for at in range(10)])
    with pytest.raises(BacktestError, match="nothing to judge: the recording ends 0 s after judging starts"):
        check_judgeable(recording, recording.info.last_event_ms, 2)


def test_a_request_at_the_time_of_a_publication_and_its_action_are_in_that_order(tmp_path: Path) -> None:
    events = [
        request("a", 1_000),
        action("a", 1_009),
        request("b", 1_010),  # at the moment of a publication
        action("b", 1_010),  # and its action at the same time
        request("c", 1_011),
    ]
    spy = Spy(2)
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=tmp_path / "joiner")
    _run(events, {"spy": spy}, join, Delays(0, 10, 10), lambda done: None)
    assert spy.scored == [(1_000, 0), (1_010, 0), (1_011, 1_010)]
    assert spy.learned == {"a": 1_009, "b": 1_010}


def test_the_rows_of_a_commit_are_one_block_however_many_events_gave_them(
    recording: Recording, events: list[Event], tmp_path: Path
) -> None:
    spec = vary_spec(
        recording.info.spec, {f"tasks.{task.name}.labels": "immediate" for task in recording.info.spec.tasks}
    )
    join = SimulatedJoin(spec, JoinerConfig(), lateness_ms=0, commit_ms=60_000, directory=tmp_path / "joiner")
    for event in under_spec(events, recording.info.spec, spec):
        join.take(event)
    times = [visible_ms for visible_ms, _ in join.visible(1 << 62)]
    assert len(times) == len(set(times)) < len(events) / 2
    join.close()


def test_an_action_stamped_before_its_request_teaches_nobody_before_it_was_made(tmp_path: Path) -> None:
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=tmp_path / "joiner")
    join.take(request("a", 1_000))
    join.take(action("a", 900))
    ((visible_ms, block),) = join.visible(1 << 62)
    assert visible_ms == 1_000
    assert block.action_time_ms.tolist() == [900]


@pytest.mark.simulation
def test_a_window_that_differs_is_learned_from_and_labels_stay_those_of_the_recording(recording: Recording) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic"), trainer=TrainerConfig(batch_size=32))
    short = vary_spec(recording.info.spec, {"tasks.click.window_ms": 30_000, "tasks.buy.window_ms": 60_000})
    plain, varied = (
        backtest(recording, config, spec=spec, delays=DELAYS, requests=400, baselines=False)
        for spec in (recording.info.spec, short)
    )
    np.testing.assert_array_equal(plain.expected.positive, varied.expected.positive)
    assert varied.counters["model"]["outside_window"] > plain.counters["model"]["outside_window"]
    assert not np.array_equal(plain.logits["model"], varied.logits["model"])


def test_scores_do_not_depend_on_the_order_of_the_files_and_threads_stay_as_they_were(tmp_path: Path) -> None:
    events = [request(str(i), 1_000 * i, [i % 5, i % 7 + 5], tags=range(i % 4)) for i in range(40)]
    events += [action(str(i), 1_000 * i + 100, i % 5) for i in range(0, 40, 3)]
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(dim=4), trainer=TrainerConfig(batch_size=4))
    threads = torch.get_num_threads()
    reports = [
        backtest(write_recording(tmp_path / str(turned), events[::turned]), config, delays=Delays(0, 5_000, 5_000))
        for turned in (1, -1)
    ]
    assert torch.get_num_threads() == threads
    assert reports[0].expected.request_ids == reports[1].expected.request_ids
    for name, logits in reports[0].logits.items():
        np.testing.assert_array_equal(logits, reports[1].logits[name])


@pytest.mark.simulation
def test_the_same_recording_gives_the_same_scores(recording: Recording) -> None:
    config = RilletConfig(spec=Path("unused"), model=ModelConfig(kind="logistic", dim=0))
    first, second, other = (
        backtest(recording, changed, delays=DELAYS, requests=120, baselines=False).logits["model"]
        for changed in (config, config, replace(config, trainer=TrainerConfig(batch_size=2)))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)

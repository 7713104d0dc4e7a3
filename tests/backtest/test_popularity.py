"""Counting baselines: rates without bias in every label mode, when they are served, and how they decay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rillet.backtest.popularity import PRIOR_IMPRESSIONS, PopularityScorer, item_slot
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float64s
from rillet.schemas.spec import LabelMode
from rillet.trainer.quality import sigmoid
from tests.backtest.events import SPEC, action, request

_DAY_MS = 86_400_000
_NO_SUCH_ITEM = 99


def spec_of(labels: LabelMode, rate: float = 1.0) -> FeatureSpec:
    return replace(SPEC, tasks=tuple(replace(task, labels=labels, negative_rate=rate) for task in SPEC.tasks))


def blocks_of(*events: object, spec: FeatureSpec = SPEC) -> list[tuple[int, ExampleBlock]]:
    join = SimulatedJoin(spec, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=Path("/nonexistent"))
    for event in events:
        join.take(event)  # type: ignore[arg-type]
    join.finish()
    return join.visible(1 << 62)


def learned(
    blocks: list[tuple[int, ExampleBlock]], spec: FeatureSpec, half_life_ms: int | None = None
) -> PopularityScorer:
    scorer = PopularityScorer(spec, half_life_ms)
    for visible_ms, block in blocks:
        scorer.learn(visible_ms, block)
    scorer.publish(blocks[-1][0], dense=False)
    return scorer


def rates(scorer: PopularityScorer, time_ms: int, items: list[int], spec: FeatureSpec = SPEC) -> Float64s:
    return sigmoid(scorer.score([request("z", time_ms, items, spec=spec)]))


def smoothed(positives: float, impressions: float, overall: float) -> float:
    return (positives + PRIOR_IMPRESSIONS * overall) / (impressions + PRIOR_IMPRESSIONS)


@pytest.mark.parametrize("labels", get_args(LabelMode))
def test_the_rate_of_an_item_is_positives_over_impressions_with_a_prior_in_every_label_mode(labels: LabelMode) -> None:
    spec = spec_of(labels)
    # The first item slot is ragged: the item is what the second one says.
    events = [
        request("a", 0, [1, 2], tags=[5, 6], spec=spec),
        action("a", 10, 1),
        action("a", 11, 1, "buy"),
        request("b", 20, [1, 3], tags=[], spec=spec),
        action("b", 30, 1),
        action("b", 40, 3),
    ]
    blocks = blocks_of(*events, spec=spec)
    unpublished = PopularityScorer(spec)
    for visible_ms, block in blocks:
        unpublished.learn(visible_ms, block)
    assert len(np.unique(rates(unpublished, 50, [1, 2, 3], spec))) == 1, "nothing is served before it was published"
    clicks, buys = (3 + 0.5) / (4 + 1), (1 + 0.5) / (4 + 1)
    expected = [
        [smoothed(2, 2, clicks), smoothed(1, 2, buys)],
        [smoothed(0, 1, clicks), smoothed(0, 1, buys)],
        [smoothed(1, 1, clicks), smoothed(0, 1, buys)],
        [clicks, buys],
    ]
    np.testing.assert_allclose(rates(learned(blocks, spec), 60, [1, 2, 3, 4], spec), expected, rtol=1e-5)


@pytest.mark.parametrize("labels", get_args(LabelMode))
def test_rates_are_of_the_impressions_and_not_of_the_sampled_rows(labels: LabelMode) -> None:
    spec, rng = spec_of(labels, rate=0.2), np.random.default_rng(0)
    events: list[object] = []
    for at in range(900):
        events.append(request(str(at), 10 * at, [1, 2], spec=spec))
        events += [action(str(at), 10 * at + 1, item) for item, p in ((1, 0.4), (2, 0.1)) if rng.random() < p]
    scorer = learned(blocks_of(*events, spec=spec), spec)
    found = rates(scorer, 30_000, [1, 2, _NO_SUCH_ITEM], spec)[:, 0]
    np.testing.assert_allclose(found, [0.4, 0.1, 0.25], rtol=0.15)


def test_old_rows_weigh_half_after_each_half_life_and_scores_of_different_times_compare() -> None:
    blocks = blocks_of(request("a", 0, [1, 2]), action("a", 0, 1), request("b", 2_000, [2]), action("b", 2_000, 2))
    scorer = PopularityScorer(SPEC, half_life_ms=1_000)
    # Each item's positive, and the click task's negative of item 2, whose window of one second ended before request b.
    for visible_ms, block in blocks:
        scorer.learn(min(visible_ms, 2_000), block)
    scorer.publish(2_000, dense=False)
    overall = rates(scorer, 2_000, [_NO_SUCH_ITEM])[0, 0]
    for after_ms, weight in ((0, 1.0), (3_000, 1 / 8)):
        found = rates(scorer, 2_000 + after_ms, [1], SPEC)[0, 0]
        assert found == pytest.approx(smoothed(0.25 * weight, 0.25 * weight, overall), rel=1e-4)


@pytest.mark.parametrize("labels", get_args(LabelMode))
def test_a_label_that_comes_late_weighs_as_its_request_does(labels: LabelMode) -> None:
    # Clicks come up to three half-lives after the impression, and negatives when the window of three half-lives closes.
    spec, rng = spec_of(labels), np.random.default_rng(0)
    spec = replace(spec, tasks=tuple(replace(task, window_ms=3_000) for task in spec.tasks))
    events: list[FeatureEvent | ActionEvent] = []
    for at in range(500):
        events.append(request(str(at), 40 * at, [1], spec=spec))
        if rng.random() < 0.2:
            events.append(action(str(at), 40 * at + int(rng.integers(3_000))))
    events.sort(key=lambda event: event.event_time_ms)
    scorer = PopularityScorer(spec, half_life_ms=1_000)
    for visible_ms, block in blocks_of(*events, spec=spec):
        scorer.learn(visible_ms, block)
    # Once all labels are there; newer requests are left out of none of the label modes.
    scorer.publish(23_000, dense=False)
    clicked = {event.request_id for event in events if isinstance(event, ActionEvent)}
    weights = 2.0 ** (np.arange(500) * 40 / 1_000 - 23)
    positives = weights[[str(at) in clicked for at in range(500)]].sum()
    overall = (positives + 0.5) / (weights.sum() + 1)
    assert rates(scorer, 23_000, [1], spec)[0, 0] == pytest.approx(
        smoothed(positives, weights.sum(), overall), rel=1e-3
    )


def test_scores_do_not_depend_on_which_requests_are_scored_together() -> None:
    scorer = PopularityScorer(SPEC, half_life_ms=_DAY_MS)
    (at_once,) = [block for block in blocks_of(request("a", 0, [1]), action("a", 0, 1)) if block[1].labels.any()]
    for day in range(64):
        scorer.learn(day * _DAY_MS, replace(at_once[1], feature_time_ms=np.array([day * _DAY_MS])))
        scorer.publish(day * _DAY_MS, dense=False)
    # Counts are brought back into range after 64 half-lives: between these two.
    times = [int(63.9 * _DAY_MS), int(64.1 * _DAY_MS), int(900 * _DAY_MS)]
    requests = [request(str(time_ms), time_ms, [1]) for time_ms in times]
    together = scorer.score(requests)
    alone = [scorer.score([one])[0] for one in reversed(requests)][::-1]
    np.testing.assert_array_equal(together, alone)
    assert together[0, 0] > together[1, 0] > together[2, 0]


def test_years_later_rows_still_decay_and_stay_finite() -> None:
    scorer = PopularityScorer(SPEC, half_life_ms=_DAY_MS)
    (at_once,) = [block for block in blocks_of(request("a", 0, [1]), action("a", 0, 1)) if block[1].labels.any()]
    for day in (0, 400, 401, 1_500):
        scorer.learn(day * _DAY_MS, replace(at_once[1], feature_time_ms=np.array([day * _DAY_MS])))
        scorer.publish(day * _DAY_MS, dense=False)
        count = 1.5 if day == 401 else 1.0
        overall = (count + 0.5) / (count + 1)
        found = rates(scorer, day * _DAY_MS, [1, _NO_SUCH_ITEM])[:, 0]
        np.testing.assert_allclose(found, [smoothed(count, count, overall), overall], rtol=1e-5)


def test_without_a_slot_that_names_the_item_there_is_no_popularity() -> None:
    ragged = replace(SPEC, item=SPEC.item[:1])
    assert item_slot(ragged) is None
    with pytest.raises(ValueError, match="no item slot has one value"):
        PopularityScorer(ragged)

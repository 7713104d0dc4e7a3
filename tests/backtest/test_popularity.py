"""Counting baselines: what is counted, when it is served, and how it fades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.backtest.joining import SimulatedJoin
from rillet.backtest.popularity import PopularityScorer, item_slot
from rillet.joiner import JoinerConfig
from rillet.schemas import ExampleBlock
from tests.backtest.events import SPEC, action, request

_DAY_MS = 86_400_000


def blocks_of(*events: object) -> list[tuple[int, ExampleBlock]]:
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=Path("/nonexistent"))
    for event in events:
        join.take(event)  # type: ignore[arg-type]
    join.finish()
    return join.visible(1 << 62)


def counts(scorer: PopularityScorer, time_ms: int, items: list[int]) -> list[list[float]]:
    found: list[list[float]] = np.expm1(scorer.score([request("z", time_ms, items)]).astype(np.float64)).tolist()
    return found


def test_positives_are_counted_per_item_and_task_and_served_once_published() -> None:
    scorer = PopularityScorer(SPEC)
    # The first item slot is ragged: the item is what the second one says.
    for visible_ms, block in blocks_of(
        request("a", 0, [1, 2], tags=[5, 6]),
        action("a", 10, 1),
        action("a", 11, 1, "buy"),
        request("b", 20, [1, 3], tags=[]),
        action("b", 30, 1),
        action("b", 40, 3),
    ):
        scorer.learn(visible_ms, block)
    assert counts(scorer, 50, [1, 3]) == [[0, 0], [0, 0]], "nothing is served before it was published"
    scorer.publish(50, dense=False)
    assert counts(scorer, 60, [1, 2, 3, 4]) == [
        pytest.approx(row, abs=1e-5) for row in ([2, 1], [0, 0], [1, 0], [0, 0])
    ]


def test_old_positives_weigh_half_after_each_half_life_and_scores_of_different_times_compare() -> None:
    scorer = PopularityScorer(SPEC, half_life_ms=1_000)
    blocks = blocks_of(request("a", 0, [1, 2]), action("a", 0, 1), request("b", 2_000, [2]), action("b", 2_000, 2))
    for visible_ms, block in blocks:
        scorer.learn(visible_ms, block)
    scorer.publish(0, dense=False)
    assert [row[0] for row in counts(scorer, 2_000, [1, 2])] == pytest.approx([0.25, 1.0], rel=1e-5)
    assert [row[0] for row in counts(scorer, 5_000, [1, 2])] == pytest.approx([0.25 / 8, 1 / 8], rel=1e-4)


def test_years_later_counts_still_fade_and_stay_finite() -> None:
    scorer = PopularityScorer(SPEC, half_life_ms=_DAY_MS)
    for day in (0, 400, 401, 1_500):
        (found,) = [
            (time_ms, block)
            for time_ms, block in blocks_of(request("a", day * _DAY_MS, [1]), action("a", day * _DAY_MS, 1))
            if block.labels.any()
        ]
        scorer.learn(*found)
        scorer.publish(day * _DAY_MS, dense=False)
        expected = 1.5 if day == 401 else 1.0
        assert counts(scorer, day * _DAY_MS, [1])[0][0] == pytest.approx(expected, rel=1e-5)


def test_without_a_slot_that_names_the_item_there_is_no_popularity() -> None:
    ragged = replace(SPEC, item=SPEC.item[:1])
    assert item_slot(ragged) is None
    with pytest.raises(ValueError, match="no item slot has one value"):
        PopularityScorer(ragged)

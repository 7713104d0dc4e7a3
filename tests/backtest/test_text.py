"""A report as text: figures, marks, remarks, and values that JSON knows."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rillet.backtest.report import MIN_BLOCKS
from rillet.backtest.text import FEW, ONE_RUN, notes, show_estimate, table, without_nan
from rillet.trainer.quality import Estimate
from tests.backtest.events import SPEC

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("value", "low", "high", "clusters", "text"),
    [
        (0.71234, 0.7, 0.72, MIN_BLOCKS, "0.7123 [0.7000, 0.7200]"),
        (NAN, NAN, NAN, MIN_BLOCKS, "-"),
        (0.7, -INF, INF, MIN_BLOCKS, "0.7000 (one run)"),
        (0.7, -INF, INF, MIN_BLOCKS - 1, "0.7000 (few)"),
    ],
)
def test_a_figure_stands_with_its_interval_or_with_why_there_is_none(
    value: float, low: float, high: float, clusters: int, text: str
) -> None:
    assert show_estimate(Estimate(value, low, high, clusters)) == text


def test_differences_have_a_sign() -> None:
    assert show_estimate(Estimate(0.01, -0.02, 0.04, 50), "+") == "+0.0100 [-0.0200, +0.0400]"


def test_values_that_json_does_not_know_are_null_at_any_depth() -> None:
    found = without_nan({"a": [1, NAN, (INF, "x")], "b": Estimate(0.5, -INF, 0.75, 9), "c": None})
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "a": [1, None, [None, "x"]],
        "b": {"value": 0.5, "low": None, "high": 0.75},
        "c": None,
    }


def report_of(**changed: Any) -> Any:
    """Two scorers of two tasks whose every figure is the same."""
    figure = Estimate(0.5, 0.4, 0.6, 50)
    return SimpleNamespace(
        **{
            "scorers": ("model", "frozen"),
            "first": "model",
            "expected": SimpleNamespace(spec=SPEC),
            "judged": np.ones((9, 2), np.bool_),
            "left_out": [0, 0],
            "learned": {},
            "setups": {"model": SimpleNamespace(spec=SPEC)},
            "estimate": lambda scorer, metric, task: figure,
            "difference": lambda scorer, first, metric, task: replace(figure, value=0.25, low=-INF, high=INF),
            "by_slot": lambda slot, scorer, task: [
                {"value": "morning", "rows": 1_200, "positives": 34, "auc": figure, "calibration": figure}
            ],
        }
        | changed
    )


def test_the_table_has_every_scorer_of_every_task_and_explains_the_marks_that_it_shows() -> None:
    text = table(report_of())
    assert [line.split()[0] for line in text.splitlines() if "[0.4000, 0.6000]" in line] == ["model", "frozen"] * 2
    assert text.count("difference to model") == 2
    assert ONE_RUN in text
    assert FEW not in text
    assert len({len(line) for line in text.splitlines() if "[0.4000" in line}) == 1, "columns are aligned"


def test_a_scorer_alone_has_no_differences() -> None:
    assert "difference" not in table(report_of(scorers=("model",)))


def test_a_slot_is_a_table_of_its_values() -> None:
    lines = table(report_of(), ["hour"]).splitlines()
    assert lines.count("click by hour") == lines.count("buy by hour") == 1
    assert sum(line.split()[:3] == ["morning", "1,200", "34"] for line in lines) == 4


def test_notes_tell_what_was_not_judged_and_what_was_not_learned() -> None:
    assert notes(report_of()) == []
    judged = np.ones((9, 2), np.bool_)
    judged[:, 1] = False
    found = notes(report_of(judged=judged, left_out=[3, 9], learned={"model": np.array([[5, 0], [0, 0]])}))
    assert [note.partition(":")[0] for note in found] == ["click", "buy", "click, model", "buy, model"]
    assert "judged on 9 impressions; 3 are left out" in found[0]
    assert "the label window of 5 s was still open" in found[1]
    assert "no positive was learned from" in found[2]
    assert "no row was learned from" in found[3]

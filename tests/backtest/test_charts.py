"""Curves over event time and figures by a setting: what their axes say."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rillet.backtest.charts import TITLES, curves, curves_figure, line_style
from rillet.backtest.drawing import INK, MUTED, SERIES
from rillet.backtest.names import METRICS

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
START_MS = 1_700_000_000_000


def report_of(span_ms: int, scorers: dict[str, list[float]], judged_from: float = 0.2) -> Any:
    """What a chart reads of a report: figures of each scorer in equal stretches of a span of event time."""
    edges = np.linspace(START_MS, START_MS + span_ms, len(next(iter(scorers.values()))) + 1)
    return SimpleNamespace(
        scorers=tuple(scorers),
        judged_from_ms=START_MS + judged_from * span_ms,
        edges_ms=lambda: edges,
        over_time=lambda scorer, metric, task: scorers[scorer],
    )


def drawn(report: Any, metric: str = "auc") -> Figure:
    figure = curves_figure(report, metric, 0)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    "span_ms",
    [SECOND, 30 * SECOND, 160 * SECOND, 4 * MINUTE, 100 * MINUTE, 4 * HOUR, 61 * HOUR, 4 * DAY, 100 * DAY, 1_200 * DAY],
)
@pytest.mark.parametrize("values", [[0.5, 0.6, 0.7], [np.nan] * 3], ids=["a figure", "no figure"])
def test_the_axis_of_any_span_of_time_has_a_few_ticks_and_is_the_whole_span(span_ms: int, values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = drawn(report_of(span_ms, {"model": values}))
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert (low * DAY, high * DAY) == pytest.approx((START_MS, START_MS + span_ms), abs=1)
    inside = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(inside) <= 7


def test_a_start_from_nothing_does_not_set_the_scale_of_what_is_judged() -> None:
    figure = drawn(report_of(DAY, {"model": [0.1, *[0.70, 0.72] * 5]}))
    low, high = figure.axes[0].get_ylim()
    assert 0.69 < low < 0.70
    assert 0.72 < high < 0.73


@pytest.mark.parametrize("metric", METRICS)
def test_a_figure_whose_ideal_is_one_shows_it(metric: str) -> None:
    low, high = drawn(report_of(DAY, {"model": [0.5, 0.6, 0.7]}), metric).axes[0].get_ylim()
    assert (low < 1 < high) == (metric in ("normalised_entropy", "calibration"))


def test_a_stretch_between_two_gaps_is_a_dot() -> None:
    axes = Figure().add_subplot()
    curves(axes, report_of(DAY, {"model": [0.5, np.nan, 0.6, np.nan, 0.7, 0.8]}), "auc", 0)
    assert axes.lines[0].get_markevery() == [0, 2]


def test_variants_differ_in_colour_or_dash_and_baselines_are_grey() -> None:
    variants = [f"variant {at}" for at in range(len(SERIES) + 1)]
    report = report_of(DAY, {name: [0.5] for name in (*variants, "frozen", "popularity", "served")})
    styles = [line_style(report, name) for name in variants]
    assert len({(style["color"], str(style["linestyle"])) for style in styles}) == len(variants)
    assert line_style(report, "frozen")["color"] == line_style(report, "popularity")["color"] == MUTED
    assert line_style(report, "frozen")["linestyle"] != line_style(report, "popularity")["linestyle"]
    assert line_style(report, "served")["color"] == INK


def test_every_figure_has_a_title() -> None:
    assert set(TITLES) == set(METRICS)

"""The charts of a backtest: quality over event time, and by the values of a setting that was varied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from rillet.backtest.drawing import INK, MUTED, SERIES, new_figure
from rillet.backtest.names import BASELINES, SERVED
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import axes_of, numeric
from rillet.trainer.quality import Estimate

TITLES = {
    "auc": "AUC",
    "auc_within": "AUC within requests",
    "normalised_entropy": "Normalised entropy",
    "calibration": "Calibration",
}
_DAY_MS = 86_400_000
_LEGEND_LINE_IN = 0.22
_DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (2, 1.5))]
_BASELINE_DASHES: dict[str, Any] = {
    "frozen": (0, (6, 2)),
    "logistic": (0, (6, 2, 1, 2)),
    "popularity": (0, (1, 1.2)),
    "decayed_popularity": (0, (1, 2.5)),
    SERVED: "-",
}


def line_style(report: BacktestReport, scorer: str) -> dict[str, Any]:
    """How a scorer is drawn: variants in colour, baselines in grey with dashes, what the recording holds in black."""
    if scorer in _BASELINE_DASHES:
        colour = INK if scorer == SERVED else MUTED
        return {"color": colour, "linewidth": 1.4, "linestyle": _BASELINE_DASHES[scorer]}
    at = report.scorers.index(scorer)
    dash = _DASHES[at // len(SERIES) % len(_DASHES)]
    return {"color": SERIES[at % len(SERIES)], "linewidth": 2.0, "linestyle": dash}


def curves(axes: Axes, report: BacktestReport, metric: str, task: int) -> None:
    """One metric of every scorer in equal stretches of event time; a stretch without a value is a gap."""
    edges = report.edges_ms()
    middles = (edges[1:] + edges[:-1]) / 2 / _DAY_MS  # matplotlib counts days since 1970
    judged = edges[1:] > report.judged_from_ms
    seen: list[float] = []
    for index, scorer in enumerate(report.scorers):
        values = np.array(report.over_time(scorer, metric, task=task))
        alone = np.isfinite(values) & ~np.isfinite(np.r_[np.nan, values[:-1]]) & ~np.isfinite(np.r_[values[1:], np.nan])
        marks = {"marker": "o", "markersize": 3, "markevery": np.flatnonzero(alone).tolist()}
        (line,) = axes.plot(middles, values, **line_style(report, scorer), **marks)
        line.set_gid(_line_id(index))
        seen += [value for value in values[judged] if math.isfinite(value)]
    axes.axvline(report.judged_from_ms / _DAY_MS, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    if metric != "auc" and metric != "auc_within":
        axes.axhline(1, color=MUTED, linewidth=1)
        seen.append(1.0)
    # A start from nothing may be far outside of what is judged: it does not set the scale.
    if seen:
        low, high = min(seen), max(seen)
        margin = 0.08 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)
    # The same times on every picture, also on one of a scorer or a task without a figure.
    axes.set_xlim(edges[0] / _DAY_MS, edges[-1] / _DAY_MS)
    # From three ticks on, so that there is a step of seconds, minutes, hours, days or months for every span.
    locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def by_axis(axes: Axes, report: BacktestReport, key: str, metric: str, task: int) -> None:
    """The final figure of a metric by the values of one setting; a line for each combination of the others."""
    values = axes_of(report.setups.values())[key]
    numbers = [numeric(text) for text in values]
    at: list[float] = [number for number in numbers if number is not None]
    named = len(at) < len(values)
    if named:
        at = list(range(len(values)))
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif min(at) > 0 and max(at) / min(at) > 20:
        axes.set_xscale("log")
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for name, setup in report.setups.items():
        others = ", ".join(
            f"{other}={setup.settings[other]}" for other in axes_of(report.setups.values()) if other != key
        )
        place = at[values.index(setup.settings[key])]
        lines.setdefault(others, []).append((place, report.estimate(name, metric, task)))
    for index, (others, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        # Names have no order: no line between them, and beside each other what would lie on top of each other.
        aside = (index - (len(lines) - 1) / 2) * 0.5 / len(lines) if named else 0.0
        x = [place + aside for place, _ in points]
        y = np.array([found.value for _, found in points])
        reach = np.array([found.high - found.value for _, found in points])
        style: dict[str, Any] = {
            "color": SERIES[index % len(SERIES)],
            "linestyle": "none" if named else _DASHES[index // len(SERIES) % len(_DASHES)],
        }
        axes.errorbar(x, y, np.where(np.isfinite(reach), reach, 0.0), capsize=3, ls="none", color=style["color"])
        # A line of its own, so that the legend shows it without the bars.
        axes.plot(x, y, marker="o", markersize=4, label=others, **style)
    if len(lines) > 1:
        # Above the plot, which keeps its height.
        axes.legend(fontsize=10, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.set_figheight(figure.get_figheight() + _LEGEND_LINE_IN * len(lines))
    axes.set_xticks(at, values)
    axes.minorticks_off()
    axes.set_xlabel(key)


def curves_figure(report: BacktestReport, metric: str, task: int) -> Figure:
    """:func:`curves` as a figure with a legend."""

    def plot(axes: Axes) -> None:
        curves(axes, report, metric, task)
        lines = {line.get_gid(): line for line in axes.lines}
        named = [(lines[_line_id(i)], name) for i, name in enumerate(report.scorers) if _line_id(i) in lines]
        axes.legend(
            [line for line, _ in named],
            [name for _, name in named],
            fontsize=8,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )
        axes.set_ylabel(TITLES[metric])

    return new_figure(plot)


def axis_figure(report: BacktestReport, key: str, metric: str, task: int) -> Figure:
    """:func:`by_axis` as a figure."""

    def plot(axes: Axes) -> None:
        by_axis(axes, report, key, metric, task)
        axes.set_ylabel(TITLES[metric])

    return new_figure(plot)


def legend_entries(report: BacktestReport) -> list[dict[str, Any]]:
    """Name, CSS variable of the colour, and dash pattern for an SVG line, of every scorer."""
    entries = []
    for index, scorer in enumerate(report.scorers):
        style = line_style(report, scorer)
        dash = style["linestyle"]
        entries.append(
            {
                "id": _line_id(index),
                "name": scorer,
                "colour": style["color"],
                "width": style["linewidth"],
                "dash": "" if dash == "-" else " ".join(f"{part * style['linewidth']:g}" for part in dash[1]),
                "baseline": scorer in (*BASELINES, SERVED),
            }
        )
    return entries


def _line_id(index: int) -> str:
    """What the line of a scorer is called in the SVG, for the page to find it."""
    return f"s{index}"

"""The report of a backtest as one HTML file: curves of all scorers on one picture, figures, slots, settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from rillet.backtest.charts import TITLES, by_axis, curves, legend_entries
from rillet.backtest.delays import show_interval
from rillet.backtest.drawing import THEME, draw, render_template
from rillet.backtest.names import METRICS
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import DELAY_KEYS, Setup, axes_of
from rillet.backtest.text import FEW, ONE_RUN, notes, show_estimate
from rillet.trainer.quality import Estimate


def render(report: BacktestReport, slots: Sequence[str] = ()) -> str:
    """The page as text.

    :param slots: slots that get a table of quality by value.
    :raises SpecError: no such slot.
    """
    variables = {light: f"var(--{name})" for name, (light, _) in THEME.items()}
    legend = [entry | {"colour": variables[entry["colour"]]} for entry in legend_entries(report)]
    return render_template(
        "rillet.backtest",
        "report.html.j2",
        report=report,
        notes=notes(report),
        one_run=ONE_RUN,
        few=FEW,
        legend=legend,
        titles=[TITLES[metric] for metric in METRICS],
        axes=[_axis(report, key) for key in axes_of(report.setups.values())],
        tasks=[_task(report, index, task.name, slots) for index, task in enumerate(report.expected.spec.tasks)],
        settings=_settings(report),
        counters=_counters(report),
    )


def _task(report: BacktestReport, index: int, name: str, slots: Sequence[str]) -> dict[str, Any]:
    def plot(metric: str) -> Callable[[Axes], None]:
        return lambda axes: curves(axes, report, metric, index)

    others = [scorer for scorer in report.scorers if scorer != report.first]
    return {
        "name": name,
        "judged": int(report.judged[:, index].sum()),
        "plots": [{"title": TITLES[m], "svg": draw(f"{name}: {TITLES[m]} over event time", plot(m))} for m in METRICS],
        "figures": [
            {"name": scorer, "cells": [_cell(report.estimate(scorer, m, index)) for m in METRICS]}
            for scorer in report.scorers
        ],
        "differences": [
            {
                "name": scorer,
                "cells": [_cell(report.difference(scorer, report.first, m, index), "+") for m in METRICS],
            }
            for scorer in others
        ],
        "slots": [
            {"name": slot, "scorers": [(scorer, _slot_rows(report, slot, scorer, index)) for scorer in report.scorers]}
            for slot in slots
        ],
    }


def _axis(report: BacktestReport, key: str) -> dict[str, Any]:
    def plot(metric: str, task: int) -> Callable[[Axes], None]:
        return lambda axes: by_axis(axes, report, key, metric, task)

    return {
        "key": key,
        "plots": [
            {"title": f"{task.name}: {TITLES[m]}", "svg": draw(f"{task.name}: {TITLES[m]} by {key}", plot(m, index))}
            for index, task in enumerate(report.expected.spec.tasks)
            for m in METRICS
        ],
    }


def _slot_rows(report: BacktestReport, slot: str, scorer: str, task: int) -> list[dict[str, Any]]:
    return [
        row | {metric: _cell(row[metric]) for metric in ("auc", "calibration")}
        for row in report.by_slot(slot, scorer, task)
    ]


def _cell(found: Estimate, sign: str = "") -> dict[str, Any]:
    """A figure, its interval, and whether that lies on one side of zero."""
    value, _, interval = show_estimate(found, sign).partition(" ")
    return {"value": value, "interval": interval, "sure": found.excludes_zero}


def _settings(report: BacktestReport) -> list[tuple[str, list[str]]]:
    """Name of a setting and its value in each variant."""
    setups = list(report.setups.values())

    def of(setup: Setup) -> dict[str, str]:
        config = setup.config
        shown = {f"delays.{key}": show_interval(getattr(setup.delays, f"{key}_ms")) for key in DELAY_KEYS}
        for task in setup.spec.tasks:
            for name in ("window_ms", "negative_rate", "labels"):
                shown[f"spec.tasks.{task.name}.{name}"] = str(getattr(task, name))
            if rule := task.rate_by_slot or task.rate_by_score:
                shown[f"spec.tasks.{task.name}.negative_rate"] += f", {rule}"
        shown |= {
            "model.kind": config.model.kind,
            "model.dim": str(config.model.dim),
            "model.hidden": str(list(config.model.hidden)),
            "model.dense_learning_rate": str(config.model.dense_learning_rate),
            "table.optimizer": str(config.table.optimizer),
            "table.learning_rate": str(config.table.learning_rate),
            "trainer.batch_size": str(config.trainer.batch_size),
            "trainer.max_wait_ms": str(config.trainer.max_wait_ms),
        }
        return {key: text for key, text in setup.settings.items() if key not in shown} | shown

    shown = [of(setup) for setup in setups]
    keys = dict.fromkeys(key for settings in shown for key in settings)
    return [(key, [settings.get(key, "") for settings in shown]) for key in keys]


def _counters(report: BacktestReport) -> list[tuple[str, list[int]]]:
    """What happened to the events in each variant's joiner; what happened in none is left out."""
    names = dict.fromkeys(name for counters in report.counters.values() for name in counters)
    lines = [(name, [counters.get(name, 0) for counters in report.counters.values()]) for name in names]
    return [line for line in lines if any(line[1])]

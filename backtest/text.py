"""A report as text for a terminal, and as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rillet.backtest.names import METRICS
from rillet.backtest.report import MIN_BLOCKS, BacktestReport
from rillet.trainer.quality import Estimate

#: said of differences without repeats
ONE_RUN = "(one run): luck cannot be told from a setting; --seeds 3 repeats each, and gives differences an interval"
#: said of figures of too few rows
FEW = f"(few): fewer than {MIN_BLOCKS} stretches of time hold positives, or negatives; too few for an interval"
_CELL = 27


def table(report: BacktestReport, slots: Sequence[str] = ()) -> str:
    """Quality of each scorer, differences to the first, and values of slots."""
    width = max(len(scorer) for scorer in report.scorers) + 2
    others = [scorer for scorer in report.scorers if scorer != report.first]
    lines: list[str] = []
    for index, task in enumerate(report.expected.spec.tasks):
        lines += ["", f"{task.name:{width}}" + "".join(f"{metric:>{_CELL}}" for metric in METRICS)]
        for scorer in report.scorers:
            lines.append(_line(scorer, width, [report.estimate(scorer, m, index) for m in METRICS]))
        if others:
            lines += ["", f"difference to {report.first}"]
        for scorer in others:
            lines.append(
                _line(scorer, width, [report.difference(scorer, report.first, m, index) for m in METRICS], sign="+")
            )
        for slot in slots:
            lines += ["", f"{task.name} by {slot}"]
            for scorer in report.scorers:
                lines.append(f"{scorer:{width}}{'rows':>10}{'positives':>11}{'auc':>{_CELL}}{'calibration':>{_CELL}}")
                for row in report.by_slot(slot, scorer, index):
                    start = f"  {row['value']:{width - 2}}{row['rows']:>10,}{row['positives']:>11,}"
                    lines.append(_line(start, 0, [row["auc"], row["calibration"]]))
    text = "\n".join(lines[1:])
    return "\n".join([text, *(f"\n{note}" for note in [*_remarks(text), *notes(report)])])


def notes(report: BacktestReport) -> list[str]:
    """What a reader has to know of tasks that were judged on less than all, and of variants that learned too little."""
    found = []
    judged = report.judged.sum(axis=0).tolist()
    for task, left_out, rows in zip(report.expected.spec.tasks, report.left_out, judged, strict=True):
        if not rows:
            found.append(
                f"{task.name}: nothing to judge: the label window of {task.window_ms / 1000:,.0f} s was still open at the "
                f"recording's end for every request after the start of judging"
            )
        elif left_out:
            found.append(
                f"{task.name}: judged on {rows:,} impressions; {left_out:,} are left out, whose label window was still "
                f"open at the recording's end"
            )
    for name, learned in report.learned.items():
        for task, (negatives, positives) in zip(report.setups[name].spec.tasks, learned.tolist(), strict=True):
            missing = [kind for kind, rows in (("negative", negatives), ("positive", positives)) if not rows]
            if missing:
                kind = "row" if len(missing) == 2 else missing[0]
                found.append(f"{task.name}, {name}: no {kind} was learned from: none was due before the last request")
    return found


def plain(report: BacktestReport, slots: Sequence[str] = ()) -> dict[str, Any]:
    """Everything as values that JSON knows; what has no value is None."""
    tasks = [(index, task.name) for index, task in enumerate(report.expected.spec.tasks)]
    others = [scorer for scorer in report.scorers if scorer != report.first]

    def difference(scorer: str, metric: str, task: int) -> Estimate:
        return report.difference(scorer, report.first, metric, task)

    found: dict[str, Any] = without_nan(
        {
            "recording": report.recording,
            "requests": len(report.expected.request_ids),
            "impressions": len(report.expected.request),
            "judged_from_ms": report.judged_from_ms,
            "judged_impressions": {name: int(report.judged[:, i].sum()) for i, name in tasks},
            "left_out_impressions": {name: report.left_out[i] for i, name in tasks},
            "notes": notes(report),
            "variants": {
                name: setup.to_json()
                | {
                    "joiner_counters": dict(report.counters.get(name, {})),
                    "learned_rows": _learned(report, name),
                }
                for name, setup in report.setups.items()
            },
            "tasks": {name: _figures(report.scorers, partial(report.estimate, task=i)) for i, name in tasks},
            "compared_with": report.first,
            "differences": {name: _figures(others, partial(difference, task=i)) for i, name in tasks},
            "curves": {
                "edges_ms": report.edges_ms().tolist(),
                "tasks": {
                    name: {s: {m: report.over_time(s, m, task=i) for m in METRICS} for s in report.scorers}
                    for i, name in tasks
                },
            },
            "slots": {
                slot: {name: {s: report.by_slot(slot, s, i) for s in report.scorers} for i, name in tasks}
                for slot in slots
            },
        }
    )
    return found


def show_estimate(found: Estimate, sign: str = "") -> str:
    """A figure with its interval as text."""
    if math.isnan(found.value):
        return "-"
    if math.isinf(found.high):
        return f"{found.value:{sign}.4f} {'(few)' if found.clusters < MIN_BLOCKS else '(one run)'}"
    return f"{found.value:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def without_nan(value: Any) -> Any:
    """Values that JSON knows: estimates as dictionaries, and None for what is not finite."""
    if isinstance(value, Estimate):
        value = {"value": value.value, "low": value.low, "high": value.high}
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(name: str, width: int, figures: Sequence[Estimate], sign: str = "") -> str:
    return f"{name:{width}}" + "".join(f" {show_estimate(figure, sign):>{_CELL - 1}}" for figure in figures)


def _remarks(text: str) -> list[str]:
    """Explanations of the marks that stand in the text."""
    return [remark for remark in (ONE_RUN, FEW) if remark.partition(":")[0] in text]


def _figures(scorers: Sequence[str], of: Callable[[str, str], Estimate]) -> dict[str, dict[str, Estimate]]:
    return {scorer: {metric: of(scorer, metric) for metric in METRICS} for scorer in scorers}


def _learned(report: BacktestReport, name: str) -> dict[str, dict[str, int]] | None:
    if name not in report.learned:
        return None
    return {
        task.name: {"negatives": negatives, "positives": positives}
        for task, (negatives, positives) in zip(
            report.setups[name].spec.tasks, report.learned[name].tolist(), strict=True
        )
    }

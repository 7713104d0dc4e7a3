"""The report as one HTML file: numbers, four plots as inline SVG, a verdict. Nothing is loaded from elsewhere.

How a page and its plots are made is shared with the backtest's report.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rillet.backtest.drawing import SERIES, draw, number, render_template, size
from rillet.demo.report import SCORES, Report

_FIRST, _SECOND = SERIES[:2]
#: so that lines are told apart where they overlap, and without their colours
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1, 1), (6, 1.5, 1, 1.5), (2.5, 2.5), (9, 2))
#: Width of a bar of the delta plot, seconds, or a multiple of it.
_BIN_S = 6.0


def render(report: Report) -> str:
    """The page as text."""
    return render_template(
        "rillet.demo", "report.html.j2", report=report, data=report.to_json(), plots=_plots(report), names=SCORES
    )


def _plots(report: Report) -> list[dict[str, Any]]:
    quality, readings = report.quality, report.readings
    plots: list[dict[str, Any]] = [
        {
            "title": "AUC of what was served",
            "text": "Every impression, scored as it was served, beside the same impressions scored by the batch "
            "model left as it was, and by what any model has to beat, at the same delays.",
            "svg": draw("AUC of each score over requests", lambda axes: _quality(axes, report)),
            "empty": not quality.edges,
            "legend": [
                {"name": name, "colour": f"var(--series{index})", "dash": " ".join(f"{2 * part:g}" for part in dash)}
                for index, (name, _, dash) in enumerate(_lines(report))
            ],
        },
        {
            "title": "Freshness",
            "text": "From an action's ingestion until the rows learnt from it are served. "
            f"Half of the actions within {number(report.freshness_ms(0.5) / 1000, 1)} s, "
            f"99% within {number(report.freshness_ms(0.99) / 1000, 1)} s.",
            "svg": draw("Histogram of freshness in seconds", lambda axes: _freshness(axes, report)),
            "empty": not (report.freshness[1] and report.freshness[1][-1]),
        },
        {
            "title": "Rows served",
            "text": "Embedding rows in the server's replica, those of crossed pairs included.",
            "svg": draw("Embedding rows over time", lambda axes: _rows(axes, report)),
            "empty": len(readings) < 2,
        },
        {
            "title": "Delta bytes",
            "text": f"What the trainer published from the first request on, in bytes, over {len(_delta_bins(report)[0])} intervals of time.",
            "svg": draw("Published bytes per interval", lambda axes: _deltas(axes, report)),
            "empty": not report.deltas.sizes,
        },
    ]
    return plots


def _quality(axes: Axes, report: Report) -> None:
    quality = report.quality
    for (_, colour, dash), judged in zip(_lines(report), quality.scores.values(), strict=True):
        axes.plot(quality.edges, judged.curve, color=colour, linewidth=2, linestyle=(0, dash) if dash else "-")
    axes.set_xlabel("requests")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _lines(report: Report) -> list[tuple[str, str, tuple[float, ...]]]:
    """Name, colour and dashes of every score's curve."""
    return [
        (SCORES[name], colour, dash) for name, colour, dash in zip(report.quality.scores, SERIES, _DASHES, strict=False)
    ]


def _freshness(axes: Axes, report: Report) -> None:
    bounds, cumulative = (np.asarray(values) for values in report.freshness)
    counts = np.diff(cumulative, prepend=0.0)
    finite = np.isfinite(bounds)
    filled = np.flatnonzero(counts[finite])
    if len(filled):
        span = slice(max(int(filled[0]) - 1, 0), int(filled[-1]) + 2)
        right = bounds[finite][span]
        left = np.concatenate(([0.0], bounds[finite]))[span][: len(right)]
        axes.bar(left, counts[finite][span], right - left, align="edge", color=_FIRST, edgecolor="none")
    for q, style in ((0.5, "-"), (0.99, (0, (4, 2)))):
        at = report.freshness_ms(q) / 1000
        axes.axvline(at, color=_SECOND, linewidth=1.5, linestyle=style)
        axes.text(at, 1.02, f"p{q * 100:.0f}", color=_SECOND, transform=axes.get_xaxis_transform(), ha="center")
    axes.set_xlabel("seconds")
    axes.set_ylabel("actions")


def _rows(axes: Axes, report: Report) -> None:
    times = [reading.wall_s for reading in report.readings]
    axes.step(times, [reading.replica_rows for reading in report.readings], where="post", color=_FIRST, linewidth=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _deltas(axes: Axes, report: Report) -> None:
    edges, sums = _delta_bins(report)
    width = edges[1] - edges[0] if len(edges) > 1 else 1.0
    axes.bar(edges, sums, width * 0.85, align="edge", color=_FIRST, edgecolor="none")
    axes.set_xlabel("seconds")
    axes.yaxis.set_major_formatter(lambda value, _: size(value))


def _delta_bins(report: Report) -> tuple[list[float], list[float]]:
    """Left edges and bytes of up to 60 equal intervals."""
    deltas = report.deltas
    if not deltas.sizes:
        return [], []
    last = max(*deltas.times_s, 1.0)
    # A multiple of the demo's publication interval: every bar holds the same number of publications.
    step = _BIN_S * max(1, math.ceil(last / 60 / _BIN_S))
    bins = np.clip((np.asarray(deltas.times_s) // step).astype(np.int64), 0, None)
    sums = np.bincount(bins, weights=deltas.sizes)
    return [index * step for index in range(len(sums))], sums.tolist()

"""The report as one HTML file: numbers, four plots as inline SVG, a verdict. Nothing is loaded from elsewhere.

Plots take their colours from the page's CSS, so that one file suits light and dark themes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rillet.demo.report import Report

#: Drawn in these, then replaced by the page's own variables. Distinct and otherwise unused colours.
_INK, _MUTED, _GRID, _FIRST, _SECOND = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}
#: Width of a bar of the delta plot, seconds, or a multiple of it.
_BIN_S = 6.0
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rillet",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 1.0,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}


def render(report: Report) -> str:
    """The page as text."""
    template = resources.files("rillet.demo").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "count": lambda value: f"{value:,}", "size": size}
    return environment.from_string(template).render(report=report, data=report.to_json(), plots=_plots(report))


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` decimals; a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def size(count: float) -> str:
    """A number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _plots(report: Report) -> list[dict[str, Any]]:
    quality, readings = report.quality, report.readings
    plots: list[dict[str, Any]] = [
        {
            "title": "AUC of what was served",
            "text": "Every impression after the first fifth of the requests, scored as it was served, beside the "
            "same impressions scored by the model as it was after that fifth.",
            "svg": _draw("AUC served and frozen over requests", lambda axes: _quality(axes, report)),
            "empty": not quality.edges,
        },
        {
            "title": "Freshness",
            "text": "From an action's ingestion until the rows learnt from it are served. "
            f"Half of the actions within {number(report.freshness_ms(0.5) / 1000, 1)} s, "
            f"99% within {number(report.freshness_ms(0.99) / 1000, 1)} s.",
            "svg": _draw("Histogram of freshness in seconds", lambda axes: _freshness(axes, report)),
            "empty": not (report.freshness[1] and report.freshness[1][-1]),
        },
        {
            "title": "Rows served",
            "text": "Embedding rows in the server's replica.",
            "svg": _draw("Embedding rows over time", lambda axes: _rows(axes, report)),
            "empty": len(readings) < 2,
        },
        {
            "title": "Delta bytes",
            "text": f"What the trainer published, in bytes, over {len(_delta_bins(report)[0])} intervals of time.",
            "svg": _draw("Published bytes per interval", lambda axes: _deltas(axes, report)),
            "empty": not report.deltas.sizes,
        },
    ]
    return plots


def _quality(axes: Axes, report: Report) -> None:
    quality = report.quality
    axes.plot(quality.edges, quality.served_curve, color=_FIRST, linewidth=2, marker="o", markersize=3.5)
    axes.plot(quality.edges, quality.frozen_curve, color=_SECOND, linewidth=2, linestyle=(0, (4, 2)))
    axes.legend(["served, learning on", "frozen after the first fifth"], loc="best")
    axes.set_xlabel("requests")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


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


def _draw(title: str, plot: Callable[[Axes], None]) -> Markup:
    """One figure as SVG markup with a title for screen readers and the page's colours."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.1), layout="constrained")
        axes = figure.add_subplot()
        plot(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg)", "", out.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids would collide between the figures of a page.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\1{prefix}-\2", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]+" height="[^"]+"', r"<svg \1", svg, count=1)
    heading = f'<svg role="img" aria-labelledby="{prefix}-title" '
    svg = svg.replace("<svg ", heading, 1)
    svg = re.sub(r"(<svg [^>]*>)", rf'\1<title id="{prefix}-title">{title}</title>', svg, count=1)
    # Made here from numbers and fixed titles; nothing of it is foreign text.
    return Markup(svg)  # noqa: S704

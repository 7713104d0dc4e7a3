"""Figures of a report page: drawn by matplotlib, put into the page as SVG that takes the page's colours.

Figures are drawn in the colours of the light theme. In a page each of them becomes a CSS variable, so that one file
suits light and dark themes. The demo's page is made with this as well.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: CSS variable to its colour in the light and in the dark theme; no colour twice in the light one
THEME = {
    "page": ("#f7f7f5", "#131517"),
    "card": ("#ffffff", "#1c1f22"),
    "ink": ("#1c1d1f", "#ececee"),
    "muted": ("#5c6066", "#a3a8af"),
    "grid": ("#dcdde0", "#373c42"),
    "good": ("#1d6b36", "#7bd394"),
    "bad": ("#b3261e", "#ff8f85"),
    "series0": ("#0b6e6e", "#4fc3bd"),
    "series1": ("#b4470f", "#f0985c"),
    "series2": ("#2457c5", "#7fa8ff"),
    "series3": ("#8a3ea8", "#cf9bea"),
    "series4": ("#6b6b00", "#c9c95a"),
    "series5": ("#b5256b", "#ff8fc0"),
    "series6": ("#2f7d32", "#86d48a"),
    "series7": ("#7a4b2a", "#d1a27f"),
}
INK, MUTED, GRID = (THEME[name][0] for name in ("ink", "muted", "grid"))
SERIES = tuple(light for name, (light, _) in THEME.items() if name.startswith("series"))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rillet",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


def render_template(room: str, name: str, **context: Any) -> str:
    """A page of a room: its template, which extends ``page.html.j2`` of this one.

    :param room: package that holds the template, such as ``rillet.demo``.
    """
    templates = {
        "page.html.j2": resources.files("rillet.backtest").joinpath("page.html.j2").read_text("utf-8"),
        name: resources.files(room).joinpath(name).read_text("utf-8"),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(templates), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "count": lambda value: f"{value:,}", "size": size}
    return environment.get_template(name).render(theme=THEME, **context)


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


def new_figure(plot: Callable[[Axes], None]) -> Figure:
    """A figure of one chart."""
    with mpl.rc_context(STYLE):
        # Not wide: on a telephone, whose width it is scaled to, its text has to be read.
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        plot(figure.add_subplot())
    return figure


def draw(title: str, plot: Callable[[Axes], None]) -> Markup:
    """One chart as SVG markup with a title for screen readers and the page's colours.

    :param title: says what is drawn; unlike that of any other chart of the page.
    """
    with mpl.rc_context(STYLE):
        out = io.StringIO()
        new_figure(plot).savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg)", "", out.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    # Hundredths of a point are enough of every coordinate; text, which is not in attributes, stays.
    svg = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    # Ids would collide between the figures of a page.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\1{prefix}-\2", svg)
    svg = with_theme(svg, {light: f"var(--{name})" for name, (light, _) in THEME.items()})
    svg = re.sub(r'<svg ([^>]*?)width="[^"]+" height="[^"]+"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{prefix}-title" ', 1)
    svg = re.sub(r"(<svg [^>]*>)", rf'\1<title id="{prefix}-title">{escape(title)}</title>', svg, count=1)
    # What matplotlib writes is escaped by it, the title is above.
    return Markup(svg)  # noqa: S704


def with_theme(svg: str, variables: Mapping[str, str]) -> str:
    """The text with every colour replaced by its variable."""
    for colour, variable in variables.items():
        svg = svg.replace(colour, variable)
    return svg

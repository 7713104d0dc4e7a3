"""Figures for a page: SVG in the theme's colours, whose ids and titles do not meet those of another figure."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes

from rillet.backtest.drawing import SERIES, THEME, draw, number, size, with_theme


def plot(axes: Axes) -> None:
    (line,) = axes.plot([0, 1 / 3], [1, 2], color=SERIES[0])
    line.set_gid("s0")
    axes.set_xlabel("a < b & 1.23456")


def test_a_figure_is_well_formed_has_its_title_and_no_colour_of_its_own() -> None:
    svg = str(draw("click: AUC <by> hour", plot))
    root = ElementTree.fromstring(svg.replace("var(--", "v("))  # noqa: S314
    assert root.attrib["role"] == "img"
    assert "width" not in root.attrib, "it is as wide as its place in the page"
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert (title.text, title.attrib["id"]) == ("click: AUC <by> hour", root.attrib["aria-labelledby"])
    assert "var(--series0)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)


def test_ids_are_those_of_the_figure_alone_and_everything_that_is_referred_to_is_there() -> None:
    first, second = (str(draw(title, plot)) for title in ("click: AUC", "buy: AUC"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert "click-auc-s0" in ids[0]
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg)) <= own


def test_coordinates_are_rounded_and_text_is_not() -> None:
    svg = str(draw("t", plot))
    assert "a &lt; b &amp; 1.23456" in svg
    assert not re.search(r'="[^"]*\.\d{3}', svg)


def test_the_same_figure_is_the_same_text() -> None:
    assert draw("t", plot) == draw("t", plot)


def test_no_colour_of_the_light_theme_stands_for_two_variables() -> None:
    lights = [light for light, _ in THEME.values()]
    assert len(set(lights)) == len(lights)
    assert with_theme("#dcdde0 #ffffff", {"#dcdde0": "grid", "#ffffff": "card"}) == "grid card"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (0.12345, "0.1235"), (12_345.6, "12,345.6000"), (0, "0.0000")]
)
def test_numbers_have_four_decimals_and_what_is_missing_is_a_dash(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (1_000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e12, "5,000.0 GB")]
)
def test_sizes_have_decimal_units(count: float, text: str) -> None:
    assert size(count) == text

"""What a report is shown as: plain JSON, a table, a page, figures for a notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rillet.backtest.delays import Delays
from rillet.backtest.names import METRICS
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import Setup, grid
from tests.backtest.events import SPEC
from tests.backtest.reports import REQUESTS, report_of


def test_json_has_everything_and_no_number_that_json_does_not_know() -> None:
    setups = grid(SPEC, None, ["delays.publish=10s,1m"])
    logits = {name: np.zeros((30, 2), np.float32) for name in (*setups, "frozen", "popularity")}
    report = report_of(list(range(10)), logits, setups, counters={name: {"positives": 3} for name in setups})
    told = json.loads(json.dumps(report.to_json(["user"]), allow_nan=False))
    assert told["compared_with"] == "delays.publish=10s"
    assert told["variants"]["delays.publish=1m"]["varied"] == {"delays.publish": "1m"}
    assert told["variants"]["delays.publish=1m"]["delays_ms"]["publish"] == 60_000
    assert told["variants"]["delays.publish=1m"]["model"]["dim"] == 16
    assert told["variants"]["delays.publish=10s"]["joiner_counters"] == {"positives": 3}
    assert set(told["tasks"]["click"]) == {*logits, "served"}
    assert set(told["tasks"]["click"]["popularity"]) == set(METRICS)
    assert set(told["differences"]["click"]) == {*logits, "served"} - {"delays.publish=10s"}
    assert told["tasks"]["buy"]["frozen"]["auc"]["value"] is None, "nobody bought"
    assert len(told["curves"]["edges_ms"]) == 41
    assert len(told["curves"]["tasks"]["click"]["frozen"]["calibration"]) == 40
    assert told["slots"]["user"]["click"]["frozen"][0]["rows"] > 0


def test_the_table_has_figures_and_differences_of_every_task(report: BacktestReport) -> None:
    table = report.table(["user"])
    assert len(re.findall(r"^difference to model$", table, re.MULTILINE)) == 2
    assert f"{report.estimate('model', 'auc').value:.4f} [" in table
    assert "click by user" in table
    assert (
        "difference to"
        not in report_of([1, 2, 3] * 9, {"model": report.logits["model"][:81]}).table().split("served")[0]
    )


def test_the_page_is_one_file_with_every_scorer_on_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.backtest.page.METRICS", METRICS[:2])  # a picture takes a tenth of a second
    setups = grid(SPEC, None, ["delays.publish=10s,1h", "model.kind=deepfm,logistic"])
    rng = np.random.default_rng(1)
    logits = {name: rng.normal(size=(90, 2)).astype(np.float32) for name in (*setups, "frozen")}
    report = report_of([1_000 * at for at in range(30)], logits, setups, recording="<monday> & $x_1$")
    page = report.to_html(["user"])
    assert "&lt;monday&gt; &amp; $x_1$" in page
    assert "<monday>" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page.replace("xlink:href", "href")), "nothing is loaded from elsewhere"
    figures = re.findall(r"<svg role.*?</svg>", page, re.DOTALL)
    assert len(figures) == 2 * 2 * 3, "two axes and the curves, of two tasks"
    titles = [re.search(r"<title[^>]*>(.*?)</title>", figure)[1] for figure in figures]  # type: ignore[index]
    assert len(set(titles)) == len(titles)
    assert {"click: AUC by delays.publish", "click: AUC by model.kind"} < set(titles)
    curves = figures[titles.index("click: AUC over event time")]
    assert ElementTree.fromstring(curves.replace("var(--", "v(")) is not None  # noqa: S314
    for index in range(len(report.scorers)):
        assert f'id="click-auc-over-event-time-s{index}"' in curves
        assert f'data-scorer="s{index}"' in page
    assert not re.search(r"#[0-9a-f]{6}", "".join(figures)), "every colour is the theme's"
    assert len(page) < 600_000
    assert "(one run): luck cannot be told" in page


def test_the_page_says_what_was_left_out_what_was_not_learned_and_what_is_too_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rillet.backtest.page.draw", lambda title, plot: "")  # the text alone is looked at here
    times = [1_000 * at for at in range(16)]
    setups = grid(SPEC, None, ["spec.tasks.click.labels=aligned,immediate"])
    rng = np.random.default_rng(1)
    logits = {name: rng.normal(size=(48, 2)).astype(np.float32) for name in setups}
    learned = {name: np.array([[0, 0], [5, 1]]) for name in setups}
    page = report_of(times, logits, setups, last_event_ms=times[-1] + 2_000, learned=learned).to_html()
    assert "impressions; 12 are left out, whose label window was still open" in page
    assert "buy: judged on 15 impressions; 24 are left out" in page
    assert "no row was learned from" in page
    assert "(few): fewer than 10 stretches" in page


def test_figures_for_a_notebook_name_their_lines(report: BacktestReport) -> None:
    figure = report.plot("auc")
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["model", "frozen", "popularity", "served"]
    setups = grid(SPEC, None, ["delays.publish=10s,1m"])
    logits = dict.fromkeys(setups, report.logits["model"])
    by_interval = report_of([1_000 * at for at in range(REQUESTS)], logits, setups).plot_axis("delays.publish")
    assert [label.get_text() for label in by_interval.axes[0].get_xticklabels()] == ["10s", "1m"]


def test_the_legend_of_a_chart_by_setting_lies_above_the_plot_and_shows_no_bars() -> None:
    setups = grid(SPEC, None, ["model.dim=4,8", "model.kind=deepfm,logistic"])
    logits = dict.fromkeys(setups, report_of([1_000 * at for at in range(REQUESTS)]).logits["model"])
    figure = report_of([1_000 * at for at in range(REQUESTS)], logits, setups).plot_axis("model.dim")
    (axes,) = figure.axes
    figure.canvas.draw()
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["model.kind=deepfm", "model.kind=logistic"]
    assert {type(handle).__name__ for handle in legend.legend_handles} == {"Line2D"}
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert axes.get_window_extent().height > 0.5 * figure.bbox.height


def test_a_setup_tells_everything_that_decides_its_result() -> None:
    config = grid(SPEC)["model"].config
    told = Setup(config, SPEC, Delays(1, 2, 3, 4)).to_json()
    assert told["delays_ms"] == {"commit": 1, "publish": 2, "dense": 3, "apply": 4}
    assert told["tasks"]["click"]["window_ms"] == 1000
    assert {"model", "table", "trainer", "joiner", "sampling_seed"} <= set(told)
    assert "kafka" not in json.dumps(told, default=str), "addresses and secrets decide nothing"
    assert str(Path("/")) not in json.dumps(told, default=str)

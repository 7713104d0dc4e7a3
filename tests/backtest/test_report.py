"""Figures over event time, by slot and against each other; the page; plain JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rillet.backtest.delays import Delays
from rillet.backtest.events import label_events
from rillet.backtest.report import METRICS, BacktestReport
from rillet.backtest.settings import Setup, grid
from rillet.backtest.slots import split_by_slot
from rillet.schemas import SpecError
from rillet.schemas.arrays import Float32s
from rillet.trainer.quality import auc, estimate
from tests.backtest.events import SPEC, action, request

REQUESTS = 120


def report_of(
    times: list[int], logits: dict[str, Float32s] | None = None, setups: dict[str, Setup] | None = None, **shown: object
) -> BacktestReport:
    """Requests of three items; item 1 is clicked in every second one, item 2 in every third."""
    events = [
        request(
            f"<{at}>",
            time,
            [1, 2, 3],
            user=at % 4,
            hour=at % 3,
            tags=range(at % 3),
            served=[0.1 * at, 0, 0.2, 0, -0.1, 0] if at % 2 else None,
        )
        for at, time in enumerate(times)
    ]
    clicks = [action(f"<{at}>", time + 1, 1 + (at % 2)) for at, time in enumerate(times) if at % 3 == 0 or at % 2]
    expected = label_events([*events, *clicks], SPEC)
    rng = np.random.default_rng(0)
    noise = {
        name: rng.normal(size=(3 * len(times), 2)).astype(np.float32) for name in ("model", "frozen", "popularity")
    }
    return BacktestReport(expected, logits or noise, times[len(times) // 5], setups or {}, **shown)  # type: ignore[arg-type]


@pytest.fixture
def report() -> BacktestReport:
    return report_of([1_000 * at for at in range(REQUESTS)])


def test_points_of_a_curve_are_equal_stretches_of_event_time_and_empty_ones_are_gaps() -> None:
    # Ten requests within a second, then none for eight seconds, then one hundred within another.
    times = [100 * at for at in range(10)] + [9_000 + 10 * at for at in range(100)]
    report = report_of(times)
    edges = report.edges_ms(10)
    assert np.ptp(np.diff(edges)) <= 1
    assert (edges[0], edges[-1]) == (0, 9_991)
    curve = report.over_time("model", "auc", 10)
    assert [bool(np.isnan(value)) for value in curve] == [False] + [True] * 8 + [False]
    expected = report.expected
    for point in (0, 9):
        rows = (expected.feature_time_ms[expected.request] < 5_000) == (point == 0)
        assert curve[point] == auc(report.logits["model"][rows, 0], expected.positive[rows, 0]).value


def test_every_impression_is_in_exactly_one_point(report: BacktestReport) -> None:
    for points in (1, 7, 40, 1_000):
        edges = report.edges_ms(points)
        times = report.expected.feature_time_ms
        assert edges[0] <= times.min()
        assert times.max() < edges[-1]
    whole = report.over_time("model", "calibration", 1)
    labels = report.expected.positive[:, 0]
    assert whole[0] == pytest.approx(
        (1 / (1 + np.exp(-report.logits["model"][:, 0].astype(float)))).sum() / labels.sum()
    )


def test_settings_that_ran_once_differ_without_an_interval_and_repeats_give_one() -> None:
    rng = np.random.default_rng(1)
    times = [1_000 * at for at in range(REQUESTS)]
    setups = grid(SPEC, None, ["model.dim=8,16"])
    runs = [rng.normal(size=(3 * REQUESTS, 2)).astype(np.float32) for _ in range(5)]
    logits = dict(zip([*setups, "frozen"], runs, strict=False))
    once = report_of(times, logits, setups)
    a, b = setups
    assert np.isneginf(once.difference(b, a, "auc").low)
    assert np.isposinf(once.difference(b, a, "auc").high)
    assert np.isfinite(once.difference("frozen", a, "auc").high)
    assert "(one run): luck cannot be told from a setting" in once.table()
    assert "(one run)" in once.to_html()
    assert once.to_json()["differences"]["click"][b]["auc"]["low"] is None

    repeated = report_of(times, logits, setups, repeats={a: (runs[3],), b: (runs[4],)})
    for name, first, second in ((a, runs[0], runs[3]), (b, runs[1], runs[4])):
        values = [report_of(times, {"x": scores}).estimate("x", "auc").value for scores in (first, second)]
        assert repeated.estimate(name, "auc").value == pytest.approx(np.mean(values))
    found = repeated.difference(b, a, "auc")
    assert found.low < found.value < found.high < np.inf
    assert "one run" not in repeated.table()
    assert "one run" not in repeated.to_html()


def test_variants_that_learn_the_same_share_their_luck_so_one_run_of_each_is_enough() -> None:
    times = [1_000 * at for at in range(REQUESTS)]
    setups = grid(SPEC, None, ["delays.publish=10s,1h"])
    report = report_of(times, setups=setups)
    logits = dict(zip(setups, (report.logits["model"], report.logits["frozen"]), strict=True))
    report = report_of(times, logits, setups)
    often, rarely = setups
    assert np.isfinite(report.difference(rarely, often, "auc").high)
    assert "one run" not in report.table()
    # The joiner's commits change what is in a batch, and so what is learned.
    other = report_of(
        times,
        dict(zip(grid(SPEC, None, ["delays.commit=1s,1m"]), logits.values(), strict=True)),
        grid(SPEC, None, ["delays.commit=1s,1m"]),
    )
    assert "one run" in other.table()


def test_a_difference_is_paired_and_has_the_narrow_interval_of_the_same_rows(report: BacktestReport) -> None:
    near = report.logits["model"] + np.float32(0.01) * np.sign(report.logits["model"])
    logits = {"a": report.logits["model"], "b": near.astype(np.float32)}
    paired = report_of([1_000 * at for at in range(REQUESTS)], logits)
    found = paired.difference("b", "a", "calibration")
    a, b = paired.estimate("a", "calibration"), paired.estimate("b", "calibration")
    assert found.value == pytest.approx(b.value - a.value)
    assert found.high - found.low < 0.1 * (a.high - a.low)
    same = paired.difference("a", "a", "auc")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_summed_influences_give_the_interval_of_the_rows_themselves(report: BacktestReport) -> None:
    rows = report.influence("model", "auc")
    request_of = report.expected.request[report.judged]
    direct = estimate(rows, report._block_of[request_of])
    assert report.estimate("model", "auc") == direct
    assert direct.clusters == 50


def test_a_request_lies_in_one_block_of_time_as_a_whole() -> None:
    report = report_of([5] * 60)  # all at the same moment
    request_of = report.expected.request
    blocks = report._block_of[request_of].reshape(-1, 3)
    assert (blocks == blocks[:, :1]).all()


def test_what_the_recording_served_is_judged_where_it_is_known(report: BacktestReport) -> None:
    assert report.scorers == ("model", "frozen", "popularity", "served")
    known = np.isfinite(report.expected.served_logits[:, 0]) & report.judged
    assert 0 < known.sum() < report.judged.sum()
    direct = auc(report.expected.served_logits[known, 0], report.expected.positive[known, 0]).value
    assert report.estimate("served", "auc").value == pytest.approx(direct)
    model = auc(report.logits["model"][known, 0], report.expected.positive[known, 0]).value
    assert report.difference("served", "model", "auc").value == pytest.approx(direct - model), "over the same rows"


def test_values_of_a_slot_are_judged_apart_and_the_rest_together(report: BacktestReport) -> None:
    found = report.by_slot("user", "model", values=3)
    assert [row["value"] for row in found] == ["0", "1", "2", "other"]
    assert sum(row["rows"] for row in found) == report.judged.sum()
    user = np.arange(REQUESTS)[report.expected.request] % 4
    rows = report.judged & (user == 1)
    assert found[1]["rows"] == rows.sum()
    assert found[1]["auc"].value == auc(report.logits["model"][rows, 0], report.expected.positive[rows, 0]).value
    assert found[1]["positives"] == report.expected.positive[rows, 0].sum()
    items = report.by_slot("item", "popularity")
    assert [row["value"] for row in items] == ["1", "2", "3"]
    assert "calibration" not in items[0]
    assert [row["value"] for row in report.by_slot("hour", "model")] == ["below 6", "6 to 18", "18 and above"]


def test_a_row_with_several_values_of_a_slot_counts_for_each_and_one_with_none_for_the_rest(
    report: BacktestReport,
) -> None:
    rows = np.flatnonzero(report.judged)
    parts = split_by_slot(report.expected, "tags", rows, 10)
    tags = (np.arange(REQUESTS) % 3)[report.expected.request]
    np.testing.assert_array_equal(np.sort(parts["0"]), rows[tags[rows] >= 1])
    np.testing.assert_array_equal(np.sort(parts["1"]), rows[tags[rows] == 2])
    np.testing.assert_array_equal(np.sort(parts["other"]), rows[tags[rows] == 0])


def test_an_unknown_slot_is_refused_with_those_there_are(report: BacktestReport) -> None:
    with pytest.raises(SpecError, match="no slot 'country'; it has user, hour, tags, item"):
        report.by_slot("country", "model")


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
    assert set(told["tasks"]["click"]["popularity"]) == {"auc", "auc_within"}
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


@pytest.mark.parametrize("axis", ["delays.publish=10s,1m,1h", "model.kind=deepfm,logistic"])
def test_the_page_is_one_file_with_every_scorer_on_every_picture(axis: str) -> None:
    setups = grid(SPEC, None, [axis, "model.dim=4,8"])
    rng = np.random.default_rng(1)
    logits = {name: rng.normal(size=(90, 2)).astype(np.float32) for name in (*setups, "frozen")}
    report = report_of([1_000 * at for at in range(30)], logits, setups, recording="<monday> & $x_1$")
    page = report.to_html(["user"])
    assert "&lt;monday&gt; &amp; $x_1$" in page
    assert "<monday>" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page.replace("xlink:href", "href")), "nothing is loaded from elsewhere"
    figures = re.findall(r"<svg role.*?</svg>", page, re.DOTALL)
    key = axis.partition("=")[0]
    assert len(figures) == 2 * len(METRICS) * 3, "two axes and the curves, of two tasks"
    titles = [re.search(r"<title[^>]*>(.*?)</title>", figure)[1] for figure in figures]  # type: ignore[index]
    assert len(set(titles)) == len(titles)
    assert f"click: AUC by {key}" in titles
    curves = figures[titles.index("click: AUC over event time")]
    assert ElementTree.fromstring(curves.replace("var(--", "v(")) is not None  # noqa: S314
    for index in range(len(report.scorers)):
        assert f'id="click-auc-over-event-time-s{index}"' in curves
        assert f'data-scorer="s{index}"' in page
    assert not re.search(r"#[0-9a-f]{6}", "".join(figures)), "every colour is the theme's"
    assert len(page) < 600_000


def test_figures_for_a_notebook_name_their_lines(report: BacktestReport) -> None:
    figure = report.plot("auc")
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["model", "frozen", "popularity", "served"]
    setups = grid(SPEC, None, ["delays.publish=10s,1m"])
    logits = dict.fromkeys(setups, report.logits["model"])
    by_interval = report_of([1_000 * at for at in range(REQUESTS)], logits, setups).plot_axis("delays.publish")
    assert [label.get_text() for label in by_interval.axes[0].get_xticklabels()] == ["10s", "1m"]


def test_a_setup_tells_everything_that_decides_its_result() -> None:
    config = grid(SPEC)["model"].config
    told = Setup(config, SPEC, Delays(1, 2, 3, 4)).to_json()
    assert told["delays_ms"] == {"commit": 1, "publish": 2, "dense": 3, "apply": 4}
    assert told["tasks"]["click"]["window_ms"] == 1000
    assert {"model", "table", "trainer", "joiner", "sampling_seed"} <= set(told)
    assert "kafka" not in json.dumps(told, default=str), "addresses and secrets decide nothing"
    assert str(Path("/")) not in json.dumps(told, default=str)

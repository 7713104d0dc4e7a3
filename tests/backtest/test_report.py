"""Figures over event time, by slot and against each other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rillet.backtest.names import METRICS
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import grid
from rillet.backtest.slots import split_by_slot
from rillet.schemas import SpecError
from rillet.trainer.quality import auc, estimate
from tests.backtest.events import SPEC
from tests.backtest.reports import REQUESTS, report_of


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


def test_a_request_of_a_clock_that_is_ahead_does_not_press_the_curve_into_one_point() -> None:
    times = [1_000 * at for at in range(REQUESTS)]
    report = report_of([*times, 86_400_000], last_event_ms=times[-1] + 60_000)
    assert report.edges_ms(10)[-1] == times[-1] + 1
    assert np.isfinite(report.over_time("model", points=10)).all()
    assert not report.judged[-3:].any()


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
    assert np.isposinf(once.difference("frozen", a, "auc").high), "the first setting has the luck of its seed as well"
    assert "(one run): luck cannot be told from a setting" in once.table()
    assert once.to_json()["differences"]["click"][b]["auc"]["low"] is None

    some = report_of(times, logits, setups, repeats={a: (runs[3],)})
    assert np.isposinf(some.difference(b, a, "auc").high), "one of the two ran once"
    repeated = report_of(times, logits, setups, repeats={a: (runs[3],), b: (runs[4],), "frozen": (runs[0],)})
    for name, first, second in ((a, runs[0], runs[3]), (b, runs[1], runs[4])):
        values = [report_of(times, {"x": scores}).estimate("x", "auc").value for scores in (first, second)]
        assert repeated.estimate(name, "auc").value == pytest.approx(np.mean(values))
    found = repeated.difference(b, a, "auc")
    assert found.low < found.value < found.high < np.inf
    assert "one run" not in repeated.table()


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


def test_what_decides_nothing_that_is_learned_is_no_luck_either() -> None:
    (setup,) = grid(SPEC).values()
    (published_otherwise,) = grid(SPEC, None, ["publisher.sparse_interval_s=3.0", "delays.apply=1s"]).values()
    assert setup.training == published_otherwise.training
    for option in ("model.seed=5", "trainer.batch_size=3", "spec.sampling_seed=1", "delays.commit=1m"):
        (other,) = grid(SPEC, None, [option]).values()
        assert setup.training != other.training


def test_repeats_widen_the_intervals_of_what_they_change_and_of_nothing_else() -> None:
    rng = np.random.default_rng(2)
    times = [1_000 * at for at in range(REQUESTS)]
    steady, *lucky = (rng.normal(size=(3 * REQUESTS, 2)).astype(np.float32) for _ in range(4))
    logits = {"model": lucky[0], "logistic": steady, "popularity": steady}
    setups = grid(SPEC)
    once = report_of(times, logits, setups)
    repeats = {"model": tuple(lucky[1:]), "logistic": (steady, steady), "popularity": (steady, steady)}
    repeated = report_of(times, logits, setups, repeats=repeats)
    assert repeated.estimate("logistic", "auc") == once.estimate("logistic", "auc"), "a seed does not change it"
    values = [report_of(times, {"x": scores}).estimate("x", "auc").value for scores in lucky]
    found, rows_alone = repeated.estimate("model", "auc"), once.estimate("model", "auc")
    assert found.high - found.low > 2 * 1.96 * np.std(values, ddof=1) / np.sqrt(3)
    assert found.high - found.low > 0.5 * (rows_alone.high - rows_alone.low)
    difference = repeated.difference("logistic", "model", "auc")
    assert np.isfinite(difference.high)
    assert np.isposinf(once.difference("logistic", "model", "auc").high)
    assert np.isfinite(once.difference("popularity", "model", "auc").high), "of this very run"


def test_a_task_is_judged_on_requests_whose_label_window_closed_within_the_recording() -> None:
    times = [1_000 * at for at in range(REQUESTS)]
    click, buy = SPEC.tasks
    last = times[-1] + click.early_ms
    report = report_of(times, last_event_ms=last)
    request_times = np.repeat(times, 3)
    for task, spec in enumerate((click, buy)):
        closed = request_times + spec.window_ms + spec.early_ms <= last
        np.testing.assert_array_equal(report.judged[:, task], closed & (request_times >= report.judged_from_ms))
    assert report.left_out == [3, 15]
    assert f"buy: judged on {3 * (96 - 5)} impressions; 15 are left out" in report.table()
    told = report.to_json()
    assert told["left_out_impressions"] == {"click": 3, "buy": 15}
    assert told["judged_impressions"] == {"click": 3 * 95, "buy": 3 * 91}
    assert sum(row["rows"] for row in report.by_slot("user", "model", task=1)) == 3 * 91
    # A curve ends where labels do.
    curve = report_of(times, last_event_ms=times[-1]).over_time("model", "auc", points=24)
    assert np.isfinite(curve[-2])
    assert np.isnan(curve[-1])


def test_a_task_whose_windows_were_all_open_has_no_figures_and_says_so() -> None:
    times = [1_000 * at for at in range(REQUESTS)]
    report = report_of(times, last_event_ms=24_000 + 5_999)
    assert "click: nothing to judge: the label window of 1 s was still open" in report.table(["user"])
    told = json.loads(json.dumps(report.to_json(["user"]), allow_nan=False))
    assert told["tasks"]["click"]["model"]["auc"]["value"] is None


@pytest.mark.parametrize("known", [0.02, 0.1, 1.0])
def test_figures_of_few_stretches_of_time_have_no_interval(known: float) -> None:
    report = report_of([1_000 * at for at in range(REQUESTS)])
    logits = np.full((3 * REQUESTS, 2), np.nan, np.float32)
    logits[-int(known * len(logits)) :] = report.logits["model"][-int(known * len(logits)) :]
    part = replace(report, expected=replace(report.expected, served_logits=logits))
    for found in (part.estimate("served", "auc"), part.difference("served", "model", "auc_within")):
        assert np.isfinite(found.value)
        assert np.isfinite(found.high) == (known == 1.0)
    assert ("(few)" in part.table()) == (known < 1)


def test_a_single_request_of_both_classes_gives_no_certainty_within_requests() -> None:
    report = report_of([1_000 * at for at in range(REQUESTS)])
    positive = np.zeros_like(report.expected.positive)
    positive[-3, 0] = True
    one = replace(report, expected=replace(report.expected, positive=positive))
    for metric in METRICS:
        assert np.isposinf(one.estimate("model", metric).high)


def test_a_variant_that_learned_from_no_rows_or_from_one_class_alone_says_so() -> None:
    setups = grid(SPEC, None, ["spec.tasks.click.labels=aligned,immediate"])
    aligned, immediate = setups
    noise = report_of([1_000 * at for at in range(30)]).logits["model"]
    learned = {aligned: np.array([[0, 0], [5, 1]]), immediate: np.array([[9, 1], [7, 0]])}
    report = report_of([1_000 * at for at in range(30)], dict.fromkeys(setups, noise), setups, learned=learned)
    text = report.table()
    assert f"click, {aligned}: no row was learned from" in text
    assert f"buy, {immediate}: no positive was learned from" in text
    assert text.count("was learned from") == 2
    told = report.to_json()["variants"][immediate]["learned_rows"]
    assert told == {"click": {"negatives": 9, "positives": 1}, "buy": {"negatives": 7, "positives": 0}}


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
    request_of = report.expected.request[report.judged[:, 0]]
    direct = estimate(rows, report._block_of(0)[request_of])
    assert report.estimate("model", "auc") == direct
    assert direct.clusters == 50


def test_a_request_lies_in_one_block_of_time_as_a_whole() -> None:
    report = report_of([5] * 60)  # all at the same moment
    request_of = report.expected.request
    blocks = report._block_of(0)[request_of].reshape(-1, 3)
    assert (blocks == blocks[:, :1]).all()


def test_what_the_recording_served_is_judged_where_it_is_known(report: BacktestReport) -> None:
    assert report.scorers == ("model", "frozen", "popularity", "served")
    known = np.isfinite(report.expected.served_logits[:, 0]) & report.judged[:, 0]
    assert 0 < known.sum() < report.judged[:, 0].sum()
    direct = auc(report.expected.served_logits[known, 0], report.expected.positive[known, 0]).value
    assert report.estimate("served", "auc").value == pytest.approx(direct)
    model = auc(report.logits["model"][known, 0], report.expected.positive[known, 0]).value
    assert report.difference("served", "model", "auc").value == pytest.approx(direct - model), "over the same rows"


def test_values_of_a_slot_are_judged_apart_and_the_rest_together(report: BacktestReport) -> None:
    found = report.by_slot("user", "model", values=3)
    assert [row["value"] for row in found] == ["0", "1", "2", "other"]
    assert sum(row["rows"] for row in found) == report.judged[:, 0].sum()
    user = np.arange(REQUESTS)[report.expected.request] % 4
    rows = report.judged[:, 0] & (user == 1)
    assert found[1]["rows"] == rows.sum()
    assert found[1]["auc"].value == auc(report.logits["model"][rows, 0], report.expected.positive[rows, 0]).value
    assert found[1]["positives"] == report.expected.positive[rows, 0].sum()
    items = report.by_slot("item", "popularity")
    assert [row["value"] for row in items] == ["1", "2", "3"]
    assert [row["value"] for row in report.by_slot("hour", "model")] == ["below 6", "6 to 18", "18 and above"]


def test_a_row_with_several_values_of_a_slot_counts_for_each_and_one_with_none_for_the_rest(
    report: BacktestReport,
) -> None:
    rows = np.flatnonzero(report.judged[:, 0])
    parts = split_by_slot(report.expected, "tags", rows, 10)
    tags = (np.arange(REQUESTS) % 3)[report.expected.request]
    np.testing.assert_array_equal(np.sort(parts["0"]), rows[tags[rows] >= 1])
    np.testing.assert_array_equal(np.sort(parts["1"]), rows[tags[rows] == 2])
    np.testing.assert_array_equal(np.sort(parts["other"]), rows[tags[rows] == 0])


def test_an_unknown_slot_is_refused_with_those_there_are(report: BacktestReport) -> None:
    with pytest.raises(SpecError, match="no slot 'country'; it has user, hour, tags, item"):
        report.by_slot("country", "model")

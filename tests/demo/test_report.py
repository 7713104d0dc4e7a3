"""The report's numbers from events, scores and records made by hand; the page shows them and loads nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport, Offender
from rillet.connectors.topic_reader import TopicRecord
from rillet.demo.monitor import Reading
from rillet.demo.page import number, render, size
from rillet.demo.report import (
    DeltaSummary,
    Judged,
    Quality,
    Report,
    impressions_of,
    in_event_order,
    judge,
    latency_summary,
    summarise_deltas,
)
from rillet.recordings.movielens import ml1m_spec
from rillet.schemas import ActionEvent, DeltaBlock, DenseRef, EpochClaim, FeatureEvent, Freshness, Record, encode

SPEC = ml1m_spec()


def joined(requests: int = 4) -> ExpectedExamples:
    """Requests of two impressions; the second is watched. They arrive last first."""
    join = PlainJoin(SPEC)
    for number_ in reversed(range(requests)):
        context, context_lengths = SPEC.encode_side(
            "context",
            {"user": [1], "age": [1], "gender": ["F"], "occupation": [1], "zip_prefix": ["1"], "recent_films": [[2]]},
        )
        items, item_lengths = SPEC.encode_side("item", {"film": [1, 2], "year": [1990, 1991], "genres": [["War"], []]})
        event = FeatureEvent(
            f"r{number_}",
            1000 * number_,
            SPEC.hash,
            context,
            np.array([0, 1]),
            items,
            context_lengths,
            item_lengths,
            # task watch: 0.1 * number_ for the first film, 1 for the second, which is watched
            served_logits=np.array([0.1 * number_, 9, 1, 9], np.float32),
        )
        join.add_feature(event if number_ != 3 else replace(event, served_logits=None))
        join.add_action(ActionEvent(f"r{number_}", 1000 * number_ + 5, 1, "watch"))
    return join.result()


def test_requests_are_judged_in_the_order_of_their_event_times() -> None:
    data = joined()
    requests = in_event_order(data)
    assert [data.request_ids[i] for i in requests] == ["r0", "r1", "r2", "r3"]
    rows = impressions_of(data, requests[1:])
    assert [data.request_ids[data.request[row]] for row in rows] == ["r1", "r1", "r2", "r2", "r3", "r3"]
    assert data.impression_ids[rows].tolist() == [0, 1] * 3


def test_all_scores_are_judged_on_the_same_logged_impressions() -> None:
    data = joined()
    frozen = np.zeros((6, 2), np.float32)
    frozen[:, 0] = [5, 1, 1, 5, 5, 1]  # wrong for r1, right for r2; r3 was not logged
    quality = judge(data, in_event_order(data)[1:], {"frozen": frozen}, task=0, first_request=1)
    assert quality.impressions == 4
    assert quality.served.auc == 1.0
    assert quality.scores["frozen"].auc == 0.5
    predicted = [1 / (1 + math.exp(-z)) for z in (0.1, 1, 0.2, 1)]
    assert quality.served.calibration == pytest.approx(sum(predicted) / 4 / 0.5, rel=1e-6)
    assert quality.edges == [4]


def test_the_labels_are_unsampled() -> None:
    data = joined(40)
    quality = judge(data, in_event_order(data), {}, task=0, first_request=0)
    assert quality.impressions == 78  # all but the two of r3, whatever the sample of negatives


def record(value: Record | bytes, at_ms: int) -> TopicRecord:
    data = value if isinstance(value, bytes) else encode(value)
    return TopicRecord("deltas", 0, 0, b"k", data, at_ms, -1)


def delta(rows: int, tombstones: int) -> DeltaBlock:
    ids = np.arange(rows)
    values = np.zeros(2 * rows, np.float32)
    return DeltaBlock("m", "embeddings", 0, 1, 0, 1, 2, ids, values, np.arange(tombstones), Freshness(), 0)


def test_deltas_are_counted_without_claims_and_dense_references() -> None:
    records = [
        record(EpochClaim("m", 0, 1, 1, "writer"), 900),
        record(delta(3, 1), 1500),
        record(delta(2, 0), 3000),
        record(DenseRef("m", 0, 1, 2, 1, 1, "p", "s", 0), 3000),
        record(b"noise", 4000),
    ]
    deltas = summarise_deltas(records, started_ms=1000)
    assert (deltas.blocks, deltas.rows, deltas.tombstones) == (2, 5, 1)
    # What came before the first request is the batch stage's, in no figure of the live run.
    assert deltas.earlier_bytes == len(records[0].value or b"")
    assert deltas.bytes == sum(len(r.value or b"") for r in records[1:])
    assert deltas.times_s == [0.5, 2.0, 2.0, 3.0]


def test_latency_has_median_and_p99() -> None:
    assert latency_summary([0.001 * i for i in range(101)]) == pytest.approx({"p50": 50, "p99": 99})
    assert latency_summary([]) == {}


AUDIT = AuditReport(
    requests=4,
    impressions=8,
    actions=4,
    expected=10,
    found=10,
    positive=4,
    negative=6,
    duplicate_features=0,
    orphan_actions=0,
    unusable_events=0,
    lost=0,
    duplicated=0,
    unexpected=0,
    mislabelled=0,
    wrong_rate=0,
    wrong_spec=0,
    undecodable=0,
)


def report(audit: AuditReport = AUDIT, unlogged: int = 0) -> Report:
    nan = float("nan")
    return Report(
        dataset="Hand <made>",
        audit=audit,
        unlogged=unlogged,
        quality=Quality(
            {
                "served": Judged(0.75, 1.1, [0.7, nan]),
                "frozen": Judged(0.5, 1.2, [0.5, 0.5]),
                "popularity": Judged(0.6, 1.0, [0.6, 0.6]),
            },
            4,
            [2, 4],
        ),
        watched="watch",
        deltas=DeltaSummary(2, 5, 1, 300, [0.5, 12.0], [100, 200]),
        readings=[Reading(float(i), i, i, i, 10 * i, 0, nan, nan) for i in range(3)],
        freshness=([1.0, 2.0, math.inf], [0.0, 100.0, 100.0]),
        latency_ms={"p50": 1.5, "p99": 9.0},
        replica_rows=20,
        replica_lag=0,
        wall_s=12.3,
        drive_s=5.0,
        retries=0,
        settings={"model": "deepfm"},
    )


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the page says: its pictures take nearly all of its time."""
    monkeypatch.setattr("rillet.demo.page.draw", lambda title, plot: "")


def test_report_json_has_the_promised_keys_and_is_strict_json() -> None:
    data = report().to_json()
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["curves"]["served_auc"] == [0.7, None]
    assert data["examples"] == {"positive": 4, "negative": 6}
    assert {"expected", "lost", "duplicated", "mislabelled"} <= data["audit"].keys()
    assert data["freshness_ms"] == {"p50": 1500.0, "p99": 1990.0, "actions": 100}
    assert data["deltas"] == {"blocks": 2, "rows": 5, "tombstones": 1, "bytes": 300, "earlier_bytes": 0}
    assert data["replica"] == {"rows": 20, "lag": 0}
    assert (data["served_auc"], data["frozen_auc"], data["popularity_auc"]) == (0.75, 0.5, 0.6)
    assert (data["calibration"], data["frozen_calibration"], data["wall_s"]) == (1.1, 1.2, 12.3)


def test_the_page_is_self_contained_and_its_plots_are_labelled_well_formed_svg() -> None:
    page = render(report())
    assert not re.search(r'(?:src|href)="https?:', page)
    assert "Hand &lt;made&gt;" in page
    figures = re.findall(r'<svg role="img".*?</svg>', page, flags=re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        ElementTree.fromstring(figure)  # noqa: S314 made by this project
        assert 'role="img"' in figure
        assert "<title" in figure
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "#0102" not in page  # every stand-in colour became a variable


@pytest.mark.usefixtures("no_pictures")
def test_a_figure_is_the_same_at_the_top_and_in_the_table_of_scores() -> None:
    shown = report()
    served = replace(shown.quality.served, calibration=1.022504)  # 1.0225 in the JSON, which rounds to 1.022
    page = render(replace(shown, quality=replace(shown.quality, scores=shown.quality.scores | {"served": served})))
    assert page.count("1.023") == 2
    assert "1.022" not in page


@pytest.mark.usefixtures("no_pictures")
def test_the_page_says_that_the_audit_passed_or_names_what_failed() -> None:
    assert "Audit passed: all 10 expected" in render(report())
    offender = Offender("lost", "r<1>", 3, "watch", "the positive is not there")
    page = render(report(replace(AUDIT, found=9, lost=1, offenders=(offender,))))
    assert "Audit failed" in page
    assert "r&lt;1&gt;" in page
    assert "passed" not in page


@pytest.mark.usefixtures("no_pictures")
def test_an_answer_that_was_not_logged_fails_the_run() -> None:
    assert report().ok
    lost = report(unlogged=2)
    assert not lost.ok
    assert lost.to_json()["audit"]["ok"] is False
    assert "2 answered requests are not on the features topic" in render(lost)


@pytest.mark.usefixtures("no_pictures")
def test_a_dropped_action_fails_the_run_because_nothing_is_late_in_a_demo() -> None:
    dropped = report(replace(AUDIT, late_dropped=2))
    assert not dropped.ok
    assert "2 dropped as late where 0 are allowed" in render(dropped)
    assert dropped.to_json()["audit"]["late_dropped"] == 2


def test_a_run_without_any_measure_still_makes_a_page() -> None:
    nan = float("nan")
    empty = replace(
        report(),
        quality=Quality({name: Judged(nan, nan, []) for name in ("served", "frozen")}, 0, []),
        deltas=DeltaSummary(),
        readings=[],
        freshness=([], []),
        latency_ms={},
    )
    assert render(empty).count("too short") == 4


def test_numbers_are_written_for_people() -> None:
    assert [size(n) for n in (0, 999, 1500, 2_340_000, 7e12)] == ["0 B", "999 B", "1.5 kB", "2.3 MB", "7,000.0 GB"]
    assert (number(None), number(float("nan")), number(1234.5678, 1)) == ("-", "-", "1,234.6")

"""The news site's own records are what its configuration says, and its client asks for scores of the same features."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.jobs.config import load_config
from rillet.schemas import ActionEvent, FeatureEvent
from rillet.serving.features import ScoreRequest
from rillet.sources import make_converter
from tests.examples.news import FOLDER, FakeProducer, News, imported, urlopen_of
from tests.serving.fake_server import FakeServer

CONFIG = load_config(FOLDER / "rillet.toml", environment={})
SPEC = CONFIG.load_spec()


@pytest.fixture
def news() -> Iterator[News]:
    with imported() as modules:
        yield modules


def _descending(request: ScoreRequest, tasks: int) -> np.ndarray:
    clicks = np.linspace(1, -1, request.rows, dtype=np.float32)
    return np.stack([clicks, clicks - 1], axis=1)


@pytest.fixture
def server(news: News, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer(SPEC, CONFIG.model.name, _descending)
    monkeypatch.setattr(news.client, "urlopen", urlopen_of(server))
    return server


@pytest.fixture
def sent(news: News, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """(topic, record) of all that is produced."""
    producer = FakeProducer({})
    monkeypatch.setattr(news.producer, "Producer", lambda settings: producer)
    return producer.sent


def converted(kind: Any, record: dict[str, Any]) -> FeatureEvent | ActionEvent:
    """What the joiner makes of a record."""
    converter = make_converter(kind, SPEC, CONFIG.sources)
    assert converter is not None
    return converter.convert(json.dumps(record).encode()).event


@pytest.mark.parametrize("name", ["producer.py", "client.py", "traffic.py"])
def test_nothing_of_rillet_is_imported(name: str) -> None:
    tree = ast.parse((FOLDER / name).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) <= {"confluent_kafka", "producer", "client"}


def test_addresses_and_topics_are_those_of_the_configuration(
    news: News, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    assert CONFIG.kafka.bootstrap_servers == news.producer.BROKER
    assert (f"http://127.0.0.1:{CONFIG.serving.port}", CONFIG.model.name) == (news.client.SERVER, news.client.MODEL)
    assert tuple(task.name for task in SPEC.tasks) == news.client.TASKS
    site = news.producer.SiteLog()
    page = news.producer.make_page(news.producer.READER, news.producer.ARTICLES)
    site.page(page)
    site.event("CLICK", page["page_id"], "sport-3")
    site.close()
    assert [topic for topic, _ in sent] == [CONFIG.kafka.topics.features, CONFIG.kafka.topics.actions]


def test_a_click_joins_the_page_that_it_was_made_on(news: News, sent: list[tuple[str, dict[str, Any]]]) -> None:
    site = news.producer.SiteLog()
    page = news.producer.make_page(news.producer.READER, news.producer.ARTICLES)
    site.page(page)
    site.event("CLICK", page["page_id"], page["articles"][1]["id"])
    shown, clicked = converted("features", sent[0][1]), converted("actions", sent[1][1])
    assert isinstance(shown, FeatureEvent)
    assert isinstance(clicked, ActionEvent)
    assert clicked.action == "click"
    assert clicked.request_id == shown.request_id == page["page_id"]
    assert clicked.impression_id == shown.impression_ids[1]
    assert 0 <= clicked.event_time_ms - shown.event_time_ms < 10_000


def test_a_record_that_the_broker_did_not_take_is_an_error(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = FakeProducer({})
    producer.fails = True
    monkeypatch.setattr(news.producer, "Producer", lambda settings: producer)
    site = news.producer.SiteLog()
    site.event("CLICK", "p", "a")
    with pytest.raises(RuntimeError, match=r"1 records were not written: \['no broker'\]"):
        site.close()


def test_what_is_scored_are_the_features_that_are_learned_from(news: News, server: FakeServer) -> None:
    page = news.producer.make_page(news.producer.READER, news.producer.ARTICLES)
    scores = news.client.score(page, "http://server")
    (request,) = server.scored
    shown = converted("features", page)
    assert isinstance(shown, FeatureEvent)
    assert not request.log
    logged = request.to_event(SPEC, np.zeros((3, 2), np.float32), CONFIG.model.name, 1)
    for ours, theirs in (
        (shown.context_fids, logged.context_fids),
        (shown.context_lengths, logged.context_lengths),
        (shown.item_fids, logged.item_fids),
        (shown.item_lengths, logged.item_lengths),
        (shown.dense, logged.dense),
    ):
        assert ours is not None
        assert theirs is not None
        assert ours.tolist() == theirs.tolist()
    assert scores["click"] == pytest.approx([0.7311, 0.5, 0.2689], abs=1e-4)
    assert scores["subscribe"] == pytest.approx([0.5, 0.2689, 0.1192], abs=1e-4)


def test_simulated_readers_click_what_they_like(
    news: News, server: FakeServer, sent: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that only sleeping moves: a minute of traffic in no time.
    clock = [0.0]
    monkeypatch.setattr(news.traffic.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(news.traffic.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 0.05))
    site = news.producer.SiteLog()
    reports = list(news.traffic.drive(site, "http://server", seconds=65, pages_per_s=10, seed=1))
    assert [round(report.seconds) for report in reports] == [10, 20, 30, 40, 50, 60]
    assert reports[0].scores["click", "other"] == pytest.approx(0.5, abs=0.05)
    pages = {record["page_id"]: record for topic, record in sent if topic == "news.pages"}
    assert len(pages) == len(server.scored) == pytest.approx(650, abs=5)
    shown, acted = dict.fromkeys(news.traffic.TRUTH, 0), dict.fromkeys(news.traffic.TRUTH, 0)
    for page in pages.values():
        for article in page["articles"]:
            for task in news.client.TASKS:
                shown[task, news.traffic.kind_of(task, page["reader"], article)] += 1
    for topic, event in sent:
        if topic == "news.events":
            page, task = pages[event["page_id"]], event["type"].lower()
            (article,) = (found for found in page["articles"] if found["id"] == event["article"])
            acted[task, news.traffic.kind_of(task, page["reader"], article)] += 1
    for key, truth in news.traffic.TRUTH.items():
        # Some of what was shown last is acted on after the end.
        assert acted[key] / shown[key] == pytest.approx(truth, rel=0.35), key


def test_a_report_stands_under_the_truth(news: News) -> None:
    report = news.traffic.Report(20.2, 1200, dict(news.traffic.TRUTH))
    names, truth = news.traffic.header()
    line = news.traffic.line(report)
    assert len(names) == len(truth) == len(line)
    assert line.split() == ["20", "s", "1,200", "0.60", "0.30", "0.05", "0.15", "0.01"]
    assert truth.split() == ["truth", *line.split()[3:]]


def test_windows_are_told_in_units_that_read_well() -> None:
    printed = CliRunner().invoke(main, ["check-config", "--config", str(FOLDER / "rillet.toml")]).output
    assert "action click within 20 s" in printed
    assert "action subscribe within 1 min" in printed


@pytest.mark.parametrize(("name", "topic"), [("pages.jsonl", "features"), ("events.jsonl", "actions")])
def test_the_samples_fit(name: str, topic: str) -> None:
    command = ["check-config", "--config", str(FOLDER / "rillet.toml"), "--sample", str(FOLDER / name)]
    result = CliRunner().invoke(main, [*command, "--topic", topic])
    assert result.exit_code == 0, result.output
    records = len((FOLDER / name).read_text("utf-8").splitlines())
    assert f"{records} records" in result.output.splitlines()[-1]


def test_what_the_readme_shows_of_a_sample_is_what_is_printed() -> None:
    command = ["check-config", "--config", str(FOLDER / "rillet.toml"), "--sample", str(FOLDER / "pages.jsonl")]
    printed = CliRunner().invoke(main, [*command, "--topic", "features"]).output.replace(f"{FOLDER}/", "")
    first, _, _ = printed.partition("pages.jsonl, line 2")
    assert f"```\n{first}```" in (FOLDER / "README.md").read_text("utf-8")

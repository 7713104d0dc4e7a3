"""The news site on the real stack: its JSON goes in, its client sees scores move within a minute, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rillet.audit.comparison import audit_topics
from rillet.connectors.config import TopicNames
from rillet.connectors.dead_letters import read_dead_letters
from rillet.connectors.topic_reader import read_topic
from rillet.demo.joiner import drain_joiner, joiner_lag, start_joiner
from rillet.devstack.process import free_port
from rillet.devstack.stack import Stack
from rillet.jobs.config import dump_config, load_config
from tests.examples.news import FOLDER, imported

pytestmark = pytest.mark.integration

PAGES_PER_S = 20.0


@pytest.fixture
def stack(tmp_path: Path, broker: str) -> Iterator[Stack]:
    """The example's services with topics and ports of their own, all ready."""
    folder = tmp_path / "news"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("var", "__pycache__"))
    config = load_config(folder / "rillet.toml", bootstrap_servers=broker, environment={})
    topics = {key: f"{topic}.{tmp_path.name}" for key, topic in asdict(config.kafka.topics).items()}
    config = replace(
        config,
        kafka=replace(config.kafka, topics=TopicNames(**topics)),
        serving=replace(config.serving, port=free_port()),
        health=replace(config.health, join_port=free_port(), train_port=free_port()),
    )
    (folder / "rillet.toml").write_text(dump_config(config), "utf-8")
    stack = Stack(load_config(folder / "rillet.toml", environment={}), folder / "rillet.toml")
    try:
        stack.start_broker()
        # Drained in the end, so that all windows are closed before the audit.
        start_joiner(stack)
        for name in ("train", "serve"):
            stack.start(name)
        for name in ("train", "serve", "join"):
            stack.wait_ready(name)
        yield stack
    finally:
        for name in ("join", "serve", "train"):
            stack.stop(name, kill=True)


def test_scores_of_the_liked_section_rise_within_a_minute_and_the_audit_is_clean(stack: Stack) -> None:
    kafka = stack.config.kafka
    with imported() as news:
        site = news.producer.SiteLog(kafka.bootstrap_servers, kafka.topics.features, kafka.topics.actions)
        server = f"http://127.0.0.1:{stack.config.serving.port}"
        reports = []
        try:
            for report in news.traffic.drive(site, server, seconds=60, pages_per_s=PAGES_PER_S):
                reports.append(report)
                if _moved(report.scores):
                    break
        finally:
            site.close()
    assert _moved(reports[-1].scores), "\n".join(map(news.traffic.line, reports))

    deadline = time.monotonic() + 60
    with joiner_lag(stack.config) as lag:
        while lag.records():
            assert time.monotonic() < deadline, "the joiner did not read on"
            time.sleep(0.2)
    drain_joiner(stack)
    found, _ = audit_topics(
        kafka.connection,
        stack.config.load_spec(),
        features=kafka.topics.features,
        actions=kafka.topics.actions,
        examples=kafka.topics.examples,
        sources=stack.config.sources,
        lateness_ms=stack.config.flink.lateness_ms,
    )
    assert found.ok, "\n".join(found.lines())
    pages = [json.loads(record.value or b"") for record in read_topic(kafka.connection, kafka.topics.features)]
    assert found.requests == len(pages) >= reports[-1].pages
    assert (found.unusable_events, found.orphan_actions) == (0, 0)
    assert not list(read_dead_letters(kafka.connection, kafka.topics.dead_letters))


def _moved(scores: dict[tuple[str, str], float]) -> bool:
    """Whether readers are served what they like: every model begins with 0.02 for everything."""
    return scores["click", "liked, new"] > 0.2 and scores["click", "liked, new"] > 2 * scores["click", "other"]

"""The walk of examples/news on the real stack: JSON goes in, scores move within a minute, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
from tests.docs.commands import commands
from tests.examples.news import FOLDER, imported

pytestmark = pytest.mark.integration

PAGES_PER_S = 20.0
#: within a minute scores move, but for a machine that does much else
WATCHED_S = 150


@dataclass(frozen=True)
class Walk:
    """A copy of the example, with topics and ports of its own."""

    folder: Path
    stack: Stack

    def run(self, command: str) -> str:
        """Runs a command as the reader does; what it prints."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}"
        return done.stdout

    def watch(self) -> None:
        """The traffic, for as long as scores need to move."""
        kafka = self.stack.config.kafka
        reports = []
        with imported() as news:
            site = news.producer.SiteLog(kafka.bootstrap_servers, kafka.topics.features, kafka.topics.actions)
            server = f"http://127.0.0.1:{self.stack.config.serving.port}"
            try:
                for report in news.traffic.drive(site, server, seconds=WATCHED_S, pages_per_s=PAGES_PER_S):
                    reports.append(report)
                    if _moved(report.scores):
                        return
            finally:
                site.close()
            raise AssertionError("\n".join(map(news.traffic.line, reports)))

    def drain(self) -> None:
        """Lets the joiner read all and close its windows."""
        deadline = time.monotonic() + 60
        with joiner_lag(self.stack.config) as lag:
            while lag.records():
                assert time.monotonic() < deadline, "the joiner did not read on"
                time.sleep(0.2)
        drain_joiner(self.stack)


@pytest.fixture
def walk(tmp_path: Path, broker: str) -> Iterator[Walk]:
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
    # The site's addresses stand in its own files.
    for name, ours, theirs in (
        ("producer.py", "127.0.0.1:9092", broker),
        ("producer.py", '"news.pages"', f'"{topics["features"]}"'),
        ("producer.py", '"news.events"', f'"{topics["actions"]}"'),
        ("client.py", "127.0.0.1:8500", f"127.0.0.1:{config.serving.port}"),
    ):
        text = (folder / name).read_text("utf-8")
        assert ours in text
        (folder / name).write_text(text.replace(ours, theirs), "utf-8")
    stack = Stack(load_config(folder / "rillet.toml", environment={}), folder / "rillet.toml")
    try:
        yield Walk(folder, stack)
    finally:
        for name in ("join", "serve", "train"):
            stack.stop(name, kill=True)


@pytest.mark.timeout(600)
def test_every_command_of_the_walk_works_scores_move_and_the_audit_is_clean(walk: Walk) -> None:
    activate, copy, change, *steps, down = commands(FOLDER / "README.md")
    assert (activate, copy, change) == (". .venv/bin/activate", "cp -r examples/news ~/news", "cd ~/news")
    assert down == "rillet down"
    said = {}
    for command in steps:
        if command == "rillet up":
            # So that its stop closes all windows, which the audit needs; `up` finds it running.
            start_joiner(walk.stack)
        if command.startswith("python traffic.py"):
            walk.watch()
        else:
            said[command] = walk.run(command)
    assert said["rillet up"].count(" ready (pid ") == 3  # "runs already" is another line
    assert said["python client.py"].count("click 0.0") == 3
    newest = said["rillet check-config --from-topic 1"]
    assert "action click on impression 'sport-3'" in newest
    assert "candidate 'science-8'" in newest

    walk.drain()
    config = walk.stack.config
    kafka, topics = config.kafka.connection, config.kafka.topics
    found, _ = audit_topics(
        kafka,
        config.load_spec(),
        features=topics.features,
        actions=topics.actions,
        examples=topics.examples,
        sources=config.sources,
        lateness_ms=config.flink.lateness_ms,
    )
    assert found.ok, "\n".join(found.lines())
    assert found.requests == sum(1 for _ in read_topic(kafka, topics.features)) > 10 * PAGES_PER_S
    assert (found.unusable_events, found.orphan_actions) == (0, 0)
    assert not list(read_dead_letters(kafka, topics.dead_letters))
    assert "train   stopped" in walk.run(down)


def _moved(scores: dict[tuple[str, str], float]) -> bool:
    """Whether readers are served what they like: every model begins with 0.02 for everything."""
    return scores["click", "liked, new"] > 0.2 and scores["click", "liked, new"] > 2 * scores["click", "other"]

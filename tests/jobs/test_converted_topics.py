"""JSON topics through real Flink: the same examples as of native topics, and dead letters of what does not fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.audit.comparison import audit_topics
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.dead_letters import read_dead_letters
from rillet.connectors.topic_reader import read_topic
from rillet.connectors.topics import create_topics
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config, load_config
from rillet.joiner import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.recordings.format import Recording
from rillet.recordings.record import record
from rillet.schemas import ExampleBlock, Slot, decode_as, dump_spec
from rillet.schemas.arrays import range_starts
from rillet.sources import SourcesConfig
from tests.jobs.joiner_runs import rows_of
from tests.sources.support import PAGES, SHOWN_MS, SPEC, actions_of, as_json, click, features_of, page

pytestmark = pytest.mark.integration

REQUESTS = 40


def make(folder: Path, broker: str, name: str, sources: SourcesConfig) -> RilletConfig:
    folder = folder / name
    folder.mkdir()
    (folder / "spec.toml").write_text(dump_spec(SPEC))
    config = RilletConfig(
        spec=Path("spec.toml"),
        data_dir=Path("data"),
        kafka=KafkaConfig(broker, TopicNames(*(f"{name}.{topic}" for topic in ("f", "a", "e", "d", "x")))),
        sources=sources,
        joiner=JoinerConfig(buckets=8, slice_ms=10_000),
        flink=FlinkConfig(lateness_ms=5_000, checkpoint_interval_ms=1_000, max_restarts=0),
        health=HealthConfig(join_port=0, train_port=0),
    )
    create_topics(broker, config.kafka.topic_partitions)
    (folder / "rillet.toml").write_text(dump_config(config))
    return load_config(folder / "rillet.toml")


def join(config: RilletConfig, *options: str) -> list[ExampleBlock]:
    """Joins what is on the topics; the blocks."""
    path = config.spec.parent / "rillet.toml"
    command = [sys.executable, "-m", "rillet", "join", *options, "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "counters are not known" not in done.stderr, "the counters of an operator were not found"
    values = read_topic(config.kafka.connection, config.kafka.topics.examples)
    return [decode_as(ExampleBlock, found.value or b"") for found in values]


def pages() -> list[tuple[str, int, dict[str, Any]]]:
    """(topic, time, record) of pages and clicks on every second of them."""
    records: list[tuple[str, int, dict[str, Any]]] = []
    for number in range(REQUESTS):
        at = SHOWN_MS + number * 2_000
        # Of hash codes with either sign, and longer than a number of 32 bits.
        request = f"page-{number:04}-é" if number % 3 else f"{number}"
        records.append(("features", at, page(page_id=request, shown_at=at, user={"id": number})))
        if number % 2:
            records.append(("actions", at + 1_500, click(page_id=request, at=at + 1_500)))
            records.append(("actions", at + 1_600, click(page_id=request, at=at + 1_600, article="a42", type="like")))
    return sorted(records, key=lambda found: found[1])


def test_json_topics_give_the_examples_of_native_ones(broker: str, tmp_path: Path) -> None:
    native, json_ = make(tmp_path, broker, "native", SourcesConfig()), make(tmp_path, broker, "json", PAGES)
    producer = Producer({"bootstrap.servers": broker})
    to_native = {"features": features_of(), "actions": actions_of()}
    for number, (kind, at, value) in enumerate(pages()):
        ingest = [("ingest_ms", str(at + 7).encode())]
        converted = to_native[kind].native(None, as_json(value))
        producer.produce(
            getattr(native.kafka.topics, kind), converted.value, converted.key, timestamp=at, headers=ingest
        )
        # One of them is native on the other topics, too; the others have no key, and one of ten no header.
        as_it_is = (converted.value, converted.key) if number == 10 else (as_json(value), None)
        producer.produce(getattr(json_.kafka.topics, kind), *as_it_is, partition=0, timestamp=at, headers=ingest)
    bad = as_json(click(article=None))
    producer.produce(
        json_.kafka.topics.actions, bad, b"k", partition=0, timestamp=SHOWN_MS + 5_000, headers=[("a", b"b")]
    )
    producer.flush(10)

    rows = rows_of(join(json_, "--until-latest", "--drain"), ingest=True)
    assert rows == rows_of(join(native, "--until-latest", "--drain"), ingest=True)
    assert len(rows) == 2 * 3 * REQUESTS + REQUESTS

    topics = json_.kafka.topics
    (stored,) = read_dead_letters(json_.kafka.connection, topics.dead_letters)
    letter = stored.letter
    assert letter is not None
    assert letter.reason == "article: is missing or null"
    assert (letter.topic, letter.key, letter.value, letter.more_headers) == (topics.actions, b"k", bad, True)

    report, _ = audit_topics(
        json_.kafka.connection,
        SPEC,
        features=topics.features,
        actions=topics.actions,
        examples=topics.examples,
        sources=json_.sources,
        lateness_ms=json_.flink.lateness_ms,
    )
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.actions, report.unusable_events) == (REQUESTS, REQUESTS, 1)

    recorded = record(
        json_.kafka.connection,
        tmp_path / "recording",
        SPEC,
        features=topics.features,
        actions=topics.actions,
        sources=json_.sources,
    )
    assert recorded.dead_letters == 1
    events = list(Recording(tmp_path / "recording").features())
    assert [event.request_id for event in events] == [
        value["page_id"] for kind, _, value in pages() if kind == "features"
    ]


def test_a_topic_whose_format_and_spec_change_is_read_on_where_it_was(broker: str, tmp_path: Path) -> None:
    """Pages become JSON between a stop and a start, under a spec with a slot more that half of them have; actions stay native."""
    config = make(tmp_path, broker, "changed", SourcesConfig())
    producer = Producer({"bootstrap.servers": broker})
    converters = {"features": features_of(), "actions": actions_of()}
    records = pages()

    def send(part: list[tuple[str, int, dict[str, Any]]], as_json_: str) -> None:
        for kind, at, value in part:
            data, key = as_json(value), b""
            if kind != as_json_:
                found = converters[kind].native(None, data)
                data, key = found.value or b"", found.key or b""
            producer.produce(getattr(config.kafka.topics, kind), data, key, timestamp=at)
        producer.flush(10)

    half = len(records) // 2
    send(records[:half], as_json_="")
    before = join(config, "--until-latest")
    later = [value for kind, _, value in records[half:] if kind == "features"]
    for value in later[::2]:
        value["country"] = "NO"
    send(records[half:], as_json_="features")
    folder = config.spec.parent
    country = Slot("country", 4, "token")
    new = replace(SPEC, context=(country, *SPEC.context))
    (folder / "new.toml").write_text(dump_spec(new))
    sources = replace(PAGES, actions=SourcesConfig().actions)
    changed = replace(config, spec=Path("new.toml"), also_accepts=(Path("spec.toml"),), sources=sources)
    (folder / "rillet.toml").write_text(dump_config(changed))
    blocks = join(config, "--until-latest", "--drain")
    assert 0 < len(before) < len(blocks)
    # An exposure per pair and a correction per action, each once.
    assert sum(len(block) for block in blocks) == 2 * 3 * REQUESTS + REQUESTS
    assert sum(int(block.labels.sum()) for block in blocks) == REQUESTS
    assert list(read_dead_letters(config.kafka.connection, config.kafka.topics.dead_letters)) == []
    # The new slot is the first of the context: what the page says, and the missing value of pages without it.
    found: dict[str, int] = {}
    for block in blocks:
        if block.spec_hash == new.hash:
            assert block.context_lengths is not None
            first = range_starts(block.context_lengths.astype(np.int64))[:: len(new.context)]
            found |= zip(block.request_ids, block.context_fids[first].tolist(), strict=True)
    for value in later:
        assert found[value["page_id"]] == (country.fids(["NO"])[0] if "country" in value else (4 << 48) | (1 << 48) - 1)

    # A recording takes both specs, and the audit judges each page under the one that it was joined under.
    topics, kafka = config.kafka.topics, config.kafka.connection
    read: dict[str, Any] = {
        "features": topics.features,
        "actions": topics.actions,
        "sources": sources,
        "also_accepts": [SPEC],
    }
    recorded = record(kafka, tmp_path / "recording", new, **read)
    assert (recorded.dead_letters, recorded.info.requests) == (0, REQUESTS)
    report, _ = audit_topics(kafka, new, examples=topics.examples, lateness_ms=config.flink.lateness_ms, **read)
    assert report.ok, report.lines()
    assert (report.requests, report.unusable_events, report.expected) == (REQUESTS, 0, sum(map(len, blocks)))

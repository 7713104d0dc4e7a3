"""Producers that import nothing of ours, in two languages: what they send is what the spec says, and gives the examples."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rillet.connectors.topic_reader import TopicRecord, read_topic
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import (
    MAX_AHEAD_MS,
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    LabelKind,
    check_event,
    decode_event,
    load_spec,
)

PRODUCERS = Path(__file__).resolve().parents[2] / "examples" / "producers"
SPEC = load_spec(PRODUCERS / "films.spec.toml")
PAGES: list[dict[str, Any]] = json.loads((PRODUCERS / "pages.json").read_text("utf-8"))
#: what npm says when it reaches no registry
_OFFLINE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH")


def test_the_python_producer_imports_nothing_of_ours() -> None:
    tree = ast.parse((PRODUCERS / "python" / "producer.py").read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) == {"confluent_kafka", "fastavro"}


def _python(servers: str, features: str, actions: str, folder: Path) -> None:
    _run([sys.executable, str(PRODUCERS / "python" / "producer.py"), servers, features, actions], PRODUCERS)


def _node(servers: str, features: str, actions: str, folder: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    # A copy: its libraries are not installed into the source tree.
    shutil.copytree(PRODUCERS, folder / "producers")
    there = folder / "producers" / "node"
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=there, capture_output=True, text=True, timeout=120, check=False
    )
    if installed.returncode and any(code in installed.stderr for code in _OFFLINE):
        pytest.skip(f"npm reaches no package registry, so kafkajs is missing: {installed.stderr.strip()[-200:]}")
    assert installed.returncode == 0, installed.stderr
    _run(["node", "producer.mjs", servers, features, actions], there)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("produce", [_python, _node], ids=["python", "node"])
def test_what_a_producer_of_ones_own_sends_is_joined_into_examples(
    produce: Callable[[str, str, str, Path], None], broker: str, topics: Callable[..., str], tmp_path: Path
) -> None:
    features, actions = topics("features", partitions=2), topics("actions", partitions=2)
    started_ms = time.time_ns() // 1_000_000
    produce(broker, features, actions, tmp_path)
    pages = [_event(record, started_ms) for record in read_topic(broker, features)]
    watched = [_event(record, started_ms) for record in read_topic(broker, actions)]

    assert len(pages) == len(PAGES)
    for event in pages:
        assert isinstance(event, FeatureEvent)
        (page,) = (p for p in PAGES if [f["film"] for f in p["films"]] == event.impression_ids.tolist())
        _check_features(event, page)
    assert all(isinstance(event, ActionEvent) for event in watched)

    block_rows = _joined([*pages, *watched], tmp_path / "join")
    found = {
        (block.request_ids[block.request_index[row]], int(block.impression_ids[row]), LabelKind(block.label_kind[row]))
        for block, row in block_rows
    }
    shown = {(event.request_id, int(film)) for event in pages for film in event.impression_ids}  # type: ignore[union-attr]
    expected = {(*pair, LabelKind.PROVISIONAL) for pair in shown}
    expected |= {(event.request_id, event.impression_id, LabelKind.CORRECTION) for event in watched}  # type: ignore[union-attr]
    assert found == expected
    assert len(block_rows) == len(expected) == sum(len(page["films"]) for page in PAGES) + 1


def _event(record: TopicRecord, started_ms: int) -> FeatureEvent | ActionEvent:
    """As the joiner reads it: what it would refuse raises here."""
    event = decode_event(record.value, record.key)
    check_event(SPEC, event, record.ingest_ms, MAX_AHEAD_MS)
    assert record.timestamp_ms == event.event_time_ms
    assert started_ms <= record.ingest_ms <= time.time_ns() // 1_000_000
    return event


def _check_features(event: FeatureEvent, page: dict[str, Any]) -> None:
    """The event is what our own encoder makes of the page."""
    films = page["films"]
    context, context_lengths = SPEC.encode_side("context", {"user": [page["user"]], "interests": [page["interests"]]})
    columns = {"film": "film", "genres": "genres", "price_band": "price"}
    item, item_lengths = SPEC.encode_side(
        "item", {slot: [film[name] for film in films] for slot, name in columns.items()}
    )
    for ours, theirs in (
        (context, event.context_fids),
        (context_lengths, event.context_lengths),
        (item, event.item_fids),
        (item_lengths, event.item_lengths),
        (np.array([film["rating"] for film in films], np.float32), event.dense),
    ):
        assert ours is not None
        assert theirs is not None
        assert ours.tolist() == theirs.tolist()


def _joined(events: list[FeatureEvent | ActionEvent], folder: Path) -> list[tuple[ExampleBlock, int]]:
    """Block and number of every example."""
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=folder)
    try:
        for event in sorted(events, key=lambda event: event.event_time_ms):
            join.take(event)
        join.finish()
        assert join.refused == 0
        assert not any(join.counters[name] for name in ("unknown_actions", "unknown_impressions", "orphan_actions"))
        return [(block, row) for _, block in join.visible(1 << 62) for row in range(len(block))]
    finally:
        join.close()

"""The trainer as a service on a real broker: what it reads, tells and keeps when it is asked to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.connectors.dead_letters import read_dead_letters, resend
from rillet.connectors.errors import TopicError
from rillet.connectors.example_source import KafkaExampleSource
from rillet.devstack.process import free_port
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import ExampleBlock, decode_as, dump_spec, encode
from rillet.trainer import CheckpointStore
from tests.connectors.event_files import scalars
from tests.trainer.blocks import RAGGED, later, make_block

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def _transaction(broker: str, topic: str, blocks: Sequence[ExampleBlock], *, commit: bool = True) -> int:
    """Writes blocks in one transaction; returns how many rows."""
    producer = Producer({"bootstrap.servers": broker, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    producer.begin_transaction()
    for block in blocks:
        producer.produce(topic, encode(block), b"0")
    producer.flush(30)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)
    return sum(map(len, blocks))


def _blocks(count: int, *, seed: int, rows: int = 50) -> list[ExampleBlock]:
    """Blocks that were served scores of use: an AUC of about 0.92."""
    rng = np.random.default_rng(seed)
    blocks = [make_block(rng, rows) for _ in range(count)]
    return [
        replace(block, served_logits=(block.labels * 2.0 + rng.normal(size=len(block.labels))).astype(np.float32))
        for block in blocks
    ]


def _get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, OSError):
        return ""


def _wait_for_rows(port: int, rows: int, process: subprocess.Popen[bytes]) -> None:
    _wait_for(port, f"rillet_train_rows_total {float(rows)}", process)


def _wait_for(port: int, metric: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while f"{metric}\n" not in _get(port, "/metrics"):
        assert process.poll() is None
        assert time.monotonic() < deadline, _get(port, "/metrics")
        time.sleep(0.1)


def _config(folder: Path, broker: str, topics: Callable[..., str], *, port: int = 0) -> RilletConfig:
    (folder / "films.spec.toml").write_text(dump_spec(RAGGED))
    (folder / "rillet.toml").write_text(
        f"""
spec = "films.spec.toml"
data_dir = "var"
[kafka]
bootstrap_servers = "{broker}"
[kafka.topics]
features = "{topics("features", partitions=2)}"
actions = "{topics("actions", partitions=2)}"
examples = "{topics("examples")}"
deltas = "{topics("deltas")}"
dead_letters = "{topics("dead")}"
[model]
name = "films"
dim = 4
hidden = [8]
[trainer]
batch_size = 64
max_wait_ms = 100
checkpoint_interval_s = 3600
progress_interval_s = 0.2
metrics_file = "metrics.jsonl"
tensorboard_dir = "runs"
[health]
train_port = {port}
"""
    )
    return load_config(folder / "rillet.toml")


def _train(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rillet", "train", "--config", str(folder / "rillet.toml"), *options]
    return subprocess.Popen(command, cwd=ROOT)


@pytest.mark.timeout(600)
def test_it_trains_on_committed_rows_only_and_stops_with_a_checkpoint_and_files_of_metrics(
    tmp_path: Path, broker: str, topics: Callable[..., str]
) -> None:
    port = free_port()
    examples = _config(tmp_path, broker, topics, port=port).kafka.topics.examples
    committed = _transaction(broker, examples, _blocks(5, seed=1))
    _transaction(broker, examples, _blocks(7, seed=2), commit=False)
    process = _train(tmp_path)
    try:
        _wait_for_rows(port, committed, process)
        _wait_for(port, "rillet_train_lag_records 0.0", process)  # though both transactions have an end of their own
        # The last block is of much later requests: it closes the label windows of all others.
        closing = later(make_block(np.random.default_rng(4), 4_096, served=False), 10_000_000)
        committed += _transaction(broker, examples, [*_blocks(20, seed=3), closing])
        _wait_for_rows(port, committed, process)
        assert _get(port, "/readyz") == "ready\n"
        assert 'rillet_train_quality_auc{task="watch"}' in _get(port, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    store = CheckpointStore(str(tmp_path / "var" / "checkpoints" / "films" / f"{RAGGED.model_hash:#x}"), keep=3)
    assert store.versions() == [1]
    meta = store.load(1).meta
    assert meta["counters"]["rows"] == committed
    # 5 + marker + 7 + marker + 21: the record after the last one read.
    assert meta["positions"] == {"0": [35, 0]}
    assert meta["extra"]["publisher"]["epoch"] == 1
    reports = [json.loads(line) for line in (tmp_path / "var" / "metrics.jsonl").read_text().splitlines()]
    rows = [report["rows"] for report in reports]
    assert rows == sorted(rows)
    assert reports[-1]["rows"] == reports[-1]["metrics"]["rillet_train_rows_total"] == committed
    metrics = reports[-1]["metrics"]
    auc = metrics['rillet_train_quality_auc{task="watch"}']
    assert 0.85 < auc < 0.97, "of the scores that were served"
    points = scalars(tmp_path / "var" / "runs")
    assert [step for step, _ in points["throughput/rows_total"]] == rows
    assert points["quality/auc/watch"][-1] == (committed, pytest.approx(auc))


@pytest.mark.timeout(600)
def test_absurd_rows_go_to_the_dead_letters_and_once_mended_are_trained_on(
    tmp_path: Path, broker: str, topics: Callable[..., str]
) -> None:
    kafka = _config(tmp_path, broker, topics).kafka
    rng = np.random.default_rng(5)
    absurd = {(block, 7 * block): value for block, value in enumerate([3e38, np.nan, -np.inf, 1e16])}
    producer = Producer({"bootstrap.servers": broker})
    for number in range(6):
        block = make_block(rng, 50)
        for (_, row), value in ((place, value) for place, value in absurd.items() if place[0] == number):
            block.dense[row] = value
        producer.produce(kafka.topics.examples, encode(block), b"0")
    assert producer.flush(30) == 0

    assert _train(tmp_path, "--until-latest").wait(240) == 0
    store = CheckpointStore(str(tmp_path / "var" / "checkpoints" / "films" / f"{RAGGED.model_hash:#x}"), keep=3)
    meta = store.load(1).meta
    assert meta["counters"]["rows"] == 6 * 50 - len(absurd)
    assert meta["counters"]["refused_rows"] == {"dense": len(absurd), "unlearnable": 0}
    assert meta["positions"] == {"0": [6, 0]}
    letters = [stored.letter for stored in read_dead_letters(broker, kafka.topics.dead_letters)]
    assert [(letter.offset, letter.row) for letter in letters if letter is not None] == list(absurd)

    mended = []
    for letter in letters:
        assert letter is not None
        assert f"row {letter.row}: dense hour is" in letter.reason
        block = decode_as(ExampleBlock, letter.value or b"")
        mended.append(replace(letter, value=encode(replace(block, dense=np.full(1, 0.5, np.float32)))))
    assert resend(broker, mended) == len(absurd)
    assert _train(tmp_path, "--until-latest").wait(240) == 0
    meta = store.load(2).meta
    assert meta["counters"]["rows"] == 6 * 50
    assert meta["counters"]["refused_rows"] == {"dense": len(absurd), "unlearnable": 0}
    assert len(list(read_dead_letters(broker, kafka.topics.dead_letters))) == len(absurd)
    # Both runs are one curve, from row to row.
    steps = [step for step, _ in scalars(tmp_path / "var" / "runs")["throughput/lag_records"]]
    assert steps == sorted(steps)
    assert {6 * 50 - len(absurd), 6 * 50} <= set(steps)


def test_a_position_that_the_topic_does_not_hold_is_refused_at_the_start(
    broker: str, topics: Callable[..., str]
) -> None:
    source = KafkaExampleSource(broker, topics("examples"), {0: (5, 0)}, until_latest=False)
    with pytest.raises(TopicError, match="offset 5 of partition 0"):
        source.start()
    source.close()


def test_until_latest_ends_behind_an_aborted_transaction(broker: str, topics: Callable[..., str]) -> None:
    examples = topics("examples", partitions=2)
    _transaction(broker, examples, _blocks(3, seed=1))
    _transaction(broker, examples, _blocks(3, seed=2), commit=False)
    source = KafkaExampleSource(broker, examples, {}, until_latest=True)
    source.start()
    found = 0
    deadline = time.monotonic() + 30
    while (records := source.poll(10, 0.2)) is not None:
        found += len(records)
        assert time.monotonic() < deadline
    source.close()
    assert found == 3

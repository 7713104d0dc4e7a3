"""The trainer as a process on a real broker, killed without warning and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import dump_spec, encode
from rillet.sync import ModelStore, Replica, TableShard
from rillet.trainer import CheckpointStore
from tests.trainer.blocks import RAGGED, make_block

pytestmark = pytest.mark.integration

BLOCKS = 300
NOISE_AT = (40, 200)
#: blocks whose last row has an absurd value
ABSURD_AT = (60, 250)
#: offsets of what is refused; the records of noise are no blocks
REFUSED_AT = {40, 61, 201, 252}
RUN = """
import sys
from rillet.jobs.config import load_config
from rillet.jobs.log_format import log_to_stderr
from rillet.jobs.train import run_train
log_to_stderr()
sys.exit(run_train(load_config(sys.argv[1]), until_latest=True))
"""


def _fill(broker: str, topic: str) -> int:
    """Blocks of several sizes, two records of noise and two absurd rows; returns how many sound rows."""
    producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True})
    rng = np.random.default_rng(11)
    rows = 0
    for number in range(BLOCKS):
        if number in NOISE_AT:
            producer.produce(topic, b"noise", b"0")
        block = make_block(rng, int(rng.integers(1, 120)), users=200, items=500)
        rows += len(block)
        if number in ABSURD_AT:
            dense = block.dense.copy()
            dense[-1] = 3e38
            block, rows = replace(block, dense=dense), rows - 1
        producer.produce(topic, encode(block), b"0")
    assert producer.flush(30) == 0
    return rows


def _config(folder: Path, broker: str, topics: Callable[..., str], examples: str) -> RilletConfig:
    folder.mkdir()
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
examples = "{examples}"
deltas = "{topics("deltas")}"
dead_letters = "{topics("dead")}"
[model]
name = "films"
dim = 4
hidden = [8]
[table]
optimizer = "lazy_adam"
[trainer]
batch_size = 64
max_wait_ms = 1000000000
checkpoint_interval_s = 0.001
[publisher]
sparse_interval_s = 0.05
dense_interval_s = 0.1
[health]
train_port = 0
"""
    )
    return load_config(folder / "rillet.toml")


def _start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder / "rillet.toml")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )


def _finish(folder: Path) -> str:
    process = _start(folder)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return errors


def _kill_after_checkpoints(folder: Path, count: int) -> int:
    """Starts the trainer and kills it once it has written ``count`` more checkpoints; returns the newest then."""
    store = CheckpointStore(str(folder / "var" / "checkpoints" / "films" / f"{RAGGED.model_hash:#x}"), keep=3)
    before = max(store.versions(), default=0)
    process = _start(folder)
    deadline = time.monotonic() + 180
    while max(store.versions(), default=0) < before + count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    return max(store.versions())


def _manifest(folder: Path) -> dict[str, object]:
    newest = max(
        (folder / "var" / "checkpoints" / "films" / f"{RAGGED.model_hash:#x}").glob("checkpoint-*/manifest.json")
    )
    manifest: dict[str, object] = json.loads(newest.read_text())
    return manifest


def _dead_letters(broker: str, topic: str) -> set[int]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: set[int] = set()
    deadline = time.monotonic() + 20
    while len(found) < len(REFUSED_AT) and time.monotonic() < deadline:
        for message in consumer.consume(10, timeout=0.5):
            found.add(json.loads(message.value() or b"")["offset"])
    consumer.close()
    return found


@pytest.mark.timeout(600)
def test_killed_twice_the_trainer_ends_with_the_parameters_of_an_unkilled_one(
    tmp_path: Path, broker: str, topics: Callable[..., str]
) -> None:
    examples = topics("examples")
    rows = _fill(broker, examples)
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    _config(whole, broker, topics, examples)
    config = _config(killed, broker, topics, examples)

    _finish(whole)
    _kill_after_checkpoints(killed, 4)
    _kill_after_checkpoints(killed, 4)
    assert "going on from checkpoint" in _finish(killed)

    expected, found = _manifest(whole), _manifest(killed)
    assert expected["meta"]["counters"]["rows"] == rows  # type: ignore[index]
    for key in ("counters", "positions", "event_clock"):
        assert found["meta"][key] == expected["meta"][key], key  # type: ignore[index]
    for name in ("table.safetensors", "dense.safetensors", "optimizer.safetensors"):
        assert found["files"][name] == expected["files"][name], name  # type: ignore[index]

    # What was published over three epochs is what the trainer ended with.
    store = ModelStore(config.store_url, config.model.name)
    replica = Replica(
        store, KafkaDeltaLog(broker, config.kafka.topics.deltas), TableShard(config.model.name, RAGGED.model_hash)
    )
    replica.load()
    replica.catch_up(0, 5.0)
    checkpoint = CheckpointStore(str(config.checkpoint_dir(config.load_spec())), keep=3).load(int(found["version"]))  # type: ignore[call-overload]
    fids, table_rows = replica.table.items()
    saved = checkpoint.files["table"]
    order = np.argsort(saved["fids"])
    np.testing.assert_array_equal(fids, saved["fids"][order])
    np.testing.assert_array_equal(table_rows, saved["rows"][order, : 1 + config.model.dim])

    assert _dead_letters(broker, config.kafka.topics.dead_letters) == REFUSED_AT

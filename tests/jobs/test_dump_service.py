"""Dump and batch stage as services on a real broker: killed again and again, then trained on, then online."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from rillet.connectors.example_manifest import read_manifest
from rillet.devstack.process import free_port
from rillet.schemas import ExampleBlock, dump_spec, encode
from rillet.sync import ModelStore
from rillet.sync.files import Files
from rillet.trainer import CheckpointStore
from tests.connectors.example_sets import impressions, numbered_blocks, read_all
from tests.trainer.blocks import RAGGED

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = numbered_blocks(400, rows=20)
DUMPED = 360


def _write(broker: str, topic: str, blocks: Sequence[ExampleBlock], pause_s: float) -> None:
    """Writes blocks to two partitions in turn, in transactions of ten; every third is first aborted."""
    producer = Producer({"bootstrap.servers": broker, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    for start in range(0, len(blocks), 10):
        for commit in (False, True) if start % 30 == 0 else (True,):
            producer.begin_transaction()
            for number, block in enumerate(blocks[start : start + 10]):
                producer.produce(topic, encode(block), b"0", partition=number % 2)
            producer.flush(30)
            producer.commit_transaction(30) if commit else producer.abort_transaction(30)
        time.sleep(pause_s)


class _Services:
    """Runs commands of the CLI on one configuration."""

    def __init__(self, folder: Path, broker: str, topics: Callable[..., str]) -> None:
        self.folder = folder
        self.url = str(folder / "dumped")
        self.examples = topics("examples", partitions=2)
        self.port = free_port()
        (folder / "films.spec.toml").write_text(dump_spec(RAGGED))
        (folder / "rillet.toml").write_text(
            f"""
spec = "films.spec.toml"
data_dir = "var"
[kafka]
bootstrap_servers = "{broker}"
examples_partitions = 2
[kafka.topics]
features = "{topics("features", partitions=2)}"
actions = "{topics("actions", partitions=2)}"
examples = "{self.examples}"
deltas = "{topics("deltas")}"
dead_letters = "{topics("dead")}"
[model]
name = "films"
dim = 4
hidden = [8]
[trainer]
batch_size = 64
[dump]
to = "file://{self.url}"
commit_interval_s = 0.2
group_rows = 150
[health]
train_port = 0
dump_port = {self.port}
"""
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rillet", *arguments, "--config", str(self.folder / "rillet.toml")]
        return subprocess.Popen(command, cwd=ROOT)

    def run(self, *arguments: str) -> None:
        assert self.start(*arguments).wait(200) == 0

    def dumped_rows(self) -> int:
        manifest = read_manifest(Files(self.url))
        return 0 if manifest is None else manifest.rows


@pytest.mark.timeout(900)
def test_what_a_dump_that_is_killed_again_and_again_has_written_is_learned_from_once_and_then_the_topic(
    tmp_path: Path, broker: str, topics: Callable[..., str]
) -> None:
    services = _Services(tmp_path, broker, topics)
    writing = threading.Thread(target=_write, args=(broker, services.examples, BLOCKS[:DUMPED], 0.3))
    writing.start()
    for number in range(4):
        before, process = services.dumped_rows(), services.start("dump")
        deadline = time.monotonic() + 100
        # At another moment of its work each time: just started, after a commit, between two.
        while services.dumped_rows() == before and number:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.07 * number)
        process.kill()
        process.wait()
    writing.join()
    process = services.start("dump")
    deadline = time.monotonic() + 100
    while services.dumped_rows() < DUMPED * 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{services.port}/metrics", timeout=5) as answer:
        assert b"rillet_dump_rows_total" in answer.read()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    services.run("dump", "--until-latest")
    found = impressions(read_all(services.url))
    assert sorted(found) == list(range(DUMPED * 20))
    manifest = read_manifest(Files(services.url))
    assert manifest is not None
    assert len(list(Path(services.url).glob("hour=*/*"))) == len(manifest.files)

    services.run("train", "--batch-from", services.url)
    store = CheckpointStore(str(tmp_path / "var" / "checkpoints" / "films" / f"{RAGGED.model_hash:#x}"), keep=3)
    assert store.load(store.versions()[-1]).meta["counters"]["rows"] == DUMPED * 20
    bases = ModelStore(str(tmp_path / "var" / "store"), "films").bases().manifests
    assert bases[0].rows > 0

    _write(broker, services.examples, BLOCKS[DUMPED:], 0.0)
    services.run("train", "--batch-from", services.url, "--then-online", "--until-latest")
    meta = store.load(store.versions()[-1]).meta
    assert meta["counters"]["rows"] == len(BLOCKS) * 20
    online = {int(partition): offset for partition, (offset, _) in meta["positions"].items() if int(partition) >= 0}
    assert all(offset > manifest.next_offsets[partition] for partition, offset in online.items())

    services.run("train", "--until-latest")
    assert store.load(store.versions()[-1]).meta["counters"]["rows"] == len(BLOCKS) * 20

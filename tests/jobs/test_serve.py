"""`rillet serve` as a process: live, then ready, then answering and logging, then gone without losing an event."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from confluent_kafka import Consumer

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.jobs.config import dump_config, parse_config
from rillet.schemas import FeatureEvent, Freshness, decode_as, dump_spec, make_fids
from rillet.serving.client import Candidates, Client
from rillet.sync import ModelStore, Publisher, TableShard
from tests.bases import write_base
from tests.serving.helpers import MODEL, WIDTH, Linear, demo_spec, exported, request_tensor

pytestmark = pytest.mark.integration

_TIMEOUT_S = 120.0


@dataclass
class _Service:
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    folder: Path
    broker: str
    features: str
    deltas: str

    def get(self, path: str) -> int:
        """Status of a GET, 0 while nothing listens."""
        try:
            with urlopen(f"http://{self.url}{path}", timeout=5) as response:
                return int(response.status)
        except URLError as error:
            return int(getattr(error, "code", 0))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def service(tmp_path: Path, broker: str) -> Iterator[_Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "films.toml").write_text(dump_spec(demo_spec()))
    unique = uuid.uuid4().hex[:8]
    names = ("features", "actions", "examples", "deltas", "dead_letters")
    topics = {name: f"{name}-{unique}" for name in names}
    config = parse_config(
        {
            "spec": "films.toml",
            "data_dir": "data",
            "kafka": {"bootstrap_servers": broker, "topics": topics},
            "model": {"name": MODEL},
            "serving": {"port": port, "base_poll_interval_ms": 50.0},
        }
    )
    (tmp_path / "rillet.toml").write_text(dump_config(config))
    log = tmp_path / "serve.log"
    command = [sys.executable, "-m", "rillet", "serve", "--config", "rillet.toml"]
    root = Path(__file__).resolve().parents[2]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT, env={"PYTHONPATH": str(root)}
        )
    try:
        yield _Service(process, f"127.0.0.1:{port}", log, tmp_path, broker, topics["features"], topics["deltas"])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def _logged(service: _Service, count: int) -> list[FeatureEvent]:
    consumer = Consumer(
        {"bootstrap.servers": service.broker, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([service.features])
    events: list[FeatureEvent] = []
    deadline = time.monotonic() + 30
    try:
        while len(events) < count and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                events.append(decode_as(FeatureEvent, message.value() or b""))
    finally:
        consumer.close()
    return events


def test_it_is_live_then_ready_then_logs_what_it_served_and_ends_cleanly(service: _Service) -> None:
    spec = demo_spec()
    service.until(lambda: service.get("/v2/health/live") == 200)
    service.until(lambda: "waiting for the trainer to write a first base" in service.log.read_text())
    assert service.get("/v2/health/ready") == 503

    table = EmbeddingTable(WIDTH, TableConfig(optimizer="none", initial_capacity=4096), track_touched=True)
    films = make_fids(16, np.arange(1, 3001))
    rows = np.zeros((3000, WIDTH), np.float32)
    rows[:, 0] = 0.25
    table.upsert(films, rows)
    with KafkaDeltaLog(service.broker, service.deltas) as deltas, Client(f"http://{service.url}", MODEL) as client:
        store = ModelStore(str(service.folder / "data" / "store"), MODEL)
        publisher = Publisher(
            deltas,
            store,
            TableShard(MODEL, spec.model_hash),
            writer="test",
        )
        write_base(
            publisher,
            store,
            table,
            now_ms=time.time_ns() // 1_000_000,
            dense={"bias": np.zeros(2, np.float32)},
            program=exported(Linear(2), spec),
            spec_toml=dump_spec(spec),
        )
        service.until(client.ready)
        tensor = request_tensor(np.random.default_rng(0), 10)
        tensor[:, 5] = films[:10]

        def logit(request_id: str) -> float:
            return float(client.score(Candidates(tensor), request_id=request_id).logits[0, 0])

        assert logit("before") == 0.25
        rows[:, 0] = 0.5
        table.upsert(films, rows)
        now_ms = time.time_ns() // 1_000_000
        publisher.publish(
            table,
            now_ms=now_ms,
            freshness=Freshness(now_ms, now_ms, np.array([now_ms])),
        )
        asked = iter(range(10_000))
        service.until(lambda: logit(f"during-{next(asked)}") == 0.5)
    count = 1 + next(asked)
    with urlopen(f"http://{service.url}/metrics") as response:
        metrics = response.read().decode()
    assert "rillet_freshness_seconds_count 1.0" in metrics
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0, service.log.read_text()
    text = service.log.read_text()
    assert "the feature log is complete" in text
    events = _logged(service, count)
    assert len({event.request_id for event in events}) == count == len(events)
    first = next(event for event in events if event.request_id == "before")
    spec.check_feature(first)
    assert first.served_logits is not None
    assert first.served_logits[0] == 0.25

"""The whole loop against a broker that takes one user over TLS only: recording, joiner, trainer, server; audited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from rillet.audit.comparison import audit_topics
from rillet.connectors.dead_letters import read_dead_letters, resend
from rillet.connectors.topic_reader import read_topic
from rillet.connectors.topics import create_topics
from rillet.devstack.broker import Broker, User, start_broker
from rillet.devstack.cluster import start_cluster
from rillet.devstack.process import Process, free_port
from rillet.jobs.config import RilletConfig, load_config
from rillet.recordings.format import Recording, RecordingWriter
from rillet.recordings.replay import replay
from rillet.schemas import FeatureEvent, decode_as, dump_spec, encode
from rillet.serving.features import RequestLayout
from tests.joiner.support import SPEC, action, feature

pytestmark = pytest.mark.integration

REQUESTS = 300
START_MS = 1_000_000_000_000
#: a quote that SQL has to escape, and characters that templates and Java's properties take for theirs
PASSWORD = "it's-a-${secret}=1!"  # noqa: S105
WRONG = "not-the-one"
VARIABLE = "LOOP_KAFKA_PASSWORD"


@dataclass(frozen=True)
class Loop:
    """A secured broker and a configuration for it that holds no secret."""

    broker: Broker
    config: RilletConfig
    path: Path

    def run(self, *command: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rillet", *command, "--config", str(self.path)],
            env={**os.environ, VARIABLE: password},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    broker = start_broker(tmp_path_factory.mktemp("secured"), user=User("loop", PASSWORD))
    try:
        (folder / "spec.toml").write_text(dump_spec(SPEC))
        (folder / "rillet.toml").write_text(f"""
spec = "spec.toml"
data_dir = "data"

[kafka]
bootstrap_servers = "{broker.bootstrap_servers}"

[kafka.client]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-256"
"sasl.username" = "loop"
"sasl.password" = {{ env = "{VARIABLE}" }}
"ssl.ca.location" = "{broker.connection.settings["ssl.ca.location"]}"

[joiner]
buckets = 8
slice_ms = 10_000

[flink]
lateness_ms = 5_000
checkpoint_interval_ms = 1_000

[model]
name = "films"
dim = 4
hidden = [8]

[serving]
port = {free_port()}
base_poll_interval_ms = 50.0

[health]
join_port = 0
train_port = 0
""")
        config = load_config(folder / "rillet.toml", environment={VARIABLE: PASSWORD})
        yield Loop(broker, config, folder / "rillet.toml")
    finally:
        broker.stop(kill=True)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    directory = tmp_path_factory.mktemp("recording") / "stream"
    rng = np.random.default_rng(3)
    with RecordingWriter(directory, SPEC, "test stream") as writer:
        for request in range(REQUESTS):
            shown = feature(request, START_MS + request * 100, impressions=5)
            writer.write(shown)
            for index in np.flatnonzero(rng.random(5) < 0.3):
                writer.write(action(request, int(index), "watch", shown.event_time_ms + 50))
    return Recording(directory)


def test_a_wrong_password_is_one_line_that_names_the_table_and_not_the_password(loop: Loop) -> None:
    for command in ("topics", "status", "join", "train", "serve"):
        begun = time.monotonic()
        done = loop.run(command, password=WRONG)
        assert done.returncode != 0, command
        # Status shows the rest of the loop, too, and wraps its lines.
        said = done.stdout if command == "status" else done.stderr.strip().splitlines()[-1]
        assert "[kafka.client]" in said, done.stderr
        assert "SCRAM-SHA-256" in said
        assert "Traceback" not in done.stderr
        assert WRONG not in done.stderr + done.stdout
        assert time.monotonic() - begun < 30


def test_a_client_without_tls_is_kept_out(loop: Loop) -> None:
    (loop.path.parent / "plain.toml").write_text(
        f'spec = "spec.toml"\n[kafka]\nbootstrap_servers = "{loop.broker.bootstrap_servers}"\n'
    )
    plain = replace(loop, path=loop.path.parent / "plain.toml").run("topics")
    assert plain.returncode != 0
    assert "[kafka.client]" in plain.stderr


def test_the_whole_loop_over_tls_is_audited_clean_and_shows_the_password_nowhere(
    loop: Loop, recording: Recording
) -> None:
    kafka, topics = loop.config.kafka, loop.config.kafka.topics
    create_topics(kafka.connection, kafka.topic_partitions)
    replay(recording, kafka.connection, features=topics.features, actions=topics.actions)
    ingest = [("ingest_ms", b"1700000000000")]
    _produce(loop, topics.actions, key=b"r1", value=b"junk", headers=ingest)

    joined = loop.run("join", "--until-latest", "--drain")
    assert joined.returncode == 0, joined.stderr[-3_000:]
    report, _ = audit_topics(
        kafka.connection,
        SPEC,
        features=topics.features,
        actions=topics.actions,
        examples=topics.examples,
        lateness_ms=loop.config.flink.lateness_ms,
    )
    assert report.ok, "\n".join(report.lines())
    assert report.found == report.expected > 5 * REQUESTS

    _produce(loop, topics.examples, key=b"5", value=b"noise")
    trained = loop.run("train", "--until-latest")
    assert trained.returncode == 0, trained.stderr[-3_000:]
    assert any(read_topic(kafka.connection, topics.deltas))

    server = Process("serve", loop.path.parent / "services")
    server.start([sys.executable, "-m", "rillet", "serve", "--config", loop.path], {**os.environ, VARIABLE: PASSWORD})
    try:
        server.wait_until(lambda: _status(loop, "/v2/health/ready") == 200, 120)
        _ask(loop, feature(REQUESTS, START_MS, impressions=5))
    finally:
        server.stop()
    logged = [decode_as(FeatureEvent, record.value or b"") for record in read_topic(kafka.connection, topics.features)]
    assert len(logged) == REQUESTS + 1
    assert f"r{REQUESTS}" in {event.request_id for event in logged}

    of_joiner, of_trainer = (stored.letter for stored in read_dead_letters(kafka.connection, topics.dead_letters))
    assert of_joiner is not None
    assert of_trainer is not None
    assert (of_joiner.topic, of_joiner.key, of_joiner.value) == (topics.actions, b"r1", b"junk")
    assert (of_trainer.topic, of_trainer.key, of_trainer.value) == (topics.examples, b"5", b"noise")
    mended = encode(action(1, 0, "like", START_MS + 200))
    assert resend(kafka.connection, [replace(of_joiner, value=mended), replace(of_trainer, value=b"again")]) == 2
    again = list(read_topic(kafka.connection, topics.actions))[-1]
    assert (again.partition, again.key, again.value) == (of_joiner.partition, b"r1", mended)
    assert (again.timestamp_ms, list(again.headers)) == (START_MS + 200, ingest)
    assert list(read_topic(kafka.connection, topics.examples))[-1].value == b"again"

    checked = loop.run("check-config")
    assert checked.returncode == 0
    outputs = [out for done in (joined, trained, checked) for out in (done.stdout, done.stderr)]
    assert not [text for text in outputs if PASSWORD in text]
    # Flink's checkpoints and logs, the store, the services' logs: nothing that a run leaves behind has it.
    assert _files_with(PASSWORD, loop.path.parent) == []


def test_flinks_pages_and_logs_show_the_password_nowhere(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    create_topics(loop.config.kafka.connection, loop.config.kafka.topic_partitions)
    cluster = start_cluster(tmp_path / "flink")
    try:
        script = Path(__file__).parents[2] / "jobs" / "joiner_job.py"
        job = cluster.submit(script, ["--config", str(loop.path)])
        deadline = time.monotonic() + 120
        while not cluster.completed_checkpoints(job):
            assert time.monotonic() < deadline, cluster.get(f"/jobs/{job}/exceptions")
            time.sleep(0.5)
        vertices = [vertex["id"] for vertex in (cluster.get(f"/jobs/{job}") or {})["vertices"]]
        paths = [f"/jobs/{job}{part}" for part in ("", "/config", "/plan", "/checkpoints/config", "/exceptions")]
        paths += ["/jobs/overview", "/jobmanager/config", "/jobmanager/environment", "/taskmanagers"]
        paths += [f"/jobs/{job}/vertices/{vertex}" for vertex in vertices]
        pages = {path: json.dumps(cluster.get(path)) for path in paths}
    finally:
        cluster.stop()
    # That there are logs of the clients to look into, and that they are where they are looked for.
    assert _files_with("sasl.jaas.config = [hidden]", cluster.folder)
    assert [path for path, page in pages.items() if PASSWORD in page] == []
    assert _files_with(PASSWORD, cluster.folder) == []


def _files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def _produce(loop: Loop, topic: str, **record: Any) -> None:
    producer = loop.config.kafka.connection.producer({})
    producer.produce(topic, timestamp=START_MS, **record)
    assert producer.flush(10) == 0


def _status(loop: Loop, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{loop.config.serving.port}{path}", timeout=5) as answer:
            return int(answer.status)
    except URLError as error:
        return int(getattr(error, "code", 0))


def _ask(loop: Loop, event: FeatureEvent) -> None:
    tensors = {
        "fids": ("INT64", RequestLayout(SPEC, max_rows=10).to_tensor(event)),
        "impression_ids": ("INT64", event.impression_ids),
        "dense": ("FP32", event.dense.reshape(len(event.impression_ids), -1)),
    }
    body = {
        "id": event.request_id,
        "inputs": [
            {"name": name, "datatype": kind, "shape": list(tensor.shape), "data": tensor.tolist()}
            for name, (kind, tensor) in tensors.items()
        ],
    }
    url = f"http://127.0.0.1:{loop.config.serving.port}/v2/models/films/infer"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10) as answer:
        assert json.load(answer).get("parameters", {}).get("logged", True)

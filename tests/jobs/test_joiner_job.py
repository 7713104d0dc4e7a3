"""The joiner in real Flink against a real broker: modes, replays, crashes; judged by the audit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.audit.comparison import AuditReport, audit_topics
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.dead_letters import read_dead_letters
from rillet.connectors.topic_reader import read_topic
from rillet.connectors.topics import create_topics
from rillet.demo.joiner import joiner_lag
from rillet.devstack.cluster import FlinkCluster, start_cluster
from rillet.devstack.own_files import JOINER as JOINER_FILES
from rillet.devstack.own_files import OwnFolder
from rillet.devstack.process import Process, free_port
from rillet.jobs.config import DumpConfig, HealthConfig, RilletConfig, dump_config, load_config
from rillet.jobs.dump import wire_dump
from rillet.joiner import JoinerConfig, JoinerRuns
from rillet.operators.flink_config import FlinkConfig
from rillet.recordings.format import Recording, RecordingWriter
from rillet.recordings.join import join_recording
from rillet.recordings.replay import replay
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    decode_as,
    dump_spec,
    encode,
    load_spec,
    parse_spec,
)
from tests.connectors.example_sets import read_all
from tests.joiner.support import SPEC, action, feature, with_labels

pytestmark = pytest.mark.integration

REQUESTS = 2_000
START_MS = 1_000_000_000_000
#: little enough memory that most of the stream goes through the disk tier
JOINER = JoinerConfig(buckets=8, slice_ms=10_000, memory_bytes=1 << 20)
FLINK = FlinkConfig(lateness_ms=5_000, max_drift_ms=60_000, checkpoint_interval_ms=1_000)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    directory = tmp_path_factory.mktemp("recording") / "stream"
    rng = np.random.default_rng(3)
    events = []
    for request in range(REQUESTS):
        shown = feature(request, START_MS + request * 100, impressions=5)
        events.append(shown)
        for index in range(5):
            for name, share, within_ms in (("watch", 0.2, 12_000), ("like", 0.1, 70_000)):
                if rng.random() < share:
                    events.append(action(request, index, name, shown.event_time_ms + int(rng.integers(0, within_ms))))
    with RecordingWriter(directory, SPEC, "test stream") as writer:
        for event in sorted(events, key=lambda e: e.event_time_ms):
            writer.write(event)
    return Recording(directory)


@dataclass(frozen=True)
class Setup:
    """A configuration file with topics of its own."""

    config: RilletConfig
    path: Path

    def replay(self, recording: Recording, speed: float | None = None) -> None:
        topics = self.config.kafka.topics
        replay(
            recording,
            self.config.kafka.bootstrap_servers,
            speed=speed,
            features=topics.features,
            actions=topics.actions,
        )

    def join(self, *options: str) -> None:
        done = self.run_join(*options)
        assert done.returncode == 0, done.stderr[-3_000:]

    def run_join(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rillet", "join", "--config", str(self.path), *options],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def blocks(self) -> list[ExampleBlock]:
        values = read_topic(self.config.kafka.bootstrap_servers, self.config.kafka.topics.examples)
        return [decode_as(ExampleBlock, record.value or b"") for record in values]

    def audit(self) -> AuditReport:
        topics = self.config.kafka.topics
        report, _ = audit_topics(
            self.config.kafka.bootstrap_servers,
            load_spec(self.path.parent / "spec.toml"),
            lateness_ms=self.config.flink.lateness_ms,
            features=topics.features,
            actions=topics.actions,
            examples=topics.examples,
        )
        return report


@pytest.fixture(scope="module")
def setup(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Setup]:
    def make(
        name: str,
        joiner: JoinerConfig = JOINER,
        flink: FlinkConfig = FLINK,
        raw_topics_of: Setup | None = None,
        spec: FeatureSpec = SPEC,
        health: HealthConfig | None = None,
    ) -> Setup:
        folder = tmp_path_factory.mktemp(name)
        (folder / "spec.toml").write_text(dump_spec(spec))
        raw = raw_topics_of.config.kafka.topics if raw_topics_of else TopicNames(f"f-{name}", f"a-{name}")
        topics = TopicNames(raw.features, raw.actions, f"e-{name}", f"d-{name}", f"x-{name}")
        config = RilletConfig(
            spec=Path("spec.toml"),
            data_dir=Path("data"),
            kafka=KafkaConfig(broker, topics),
            joiner=joiner,
            flink=flink,
            health=health or HealthConfig(join_port=0, train_port=0),
        )
        create_topics(broker, config.kafka.topic_partitions)
        path = folder / "rillet.toml"
        path.write_text(dump_config(config))
        return Setup(config, path)

    return make


LIKE = encode(action(1, 0, "like", START_MS + 1_000))
#: value and headers of records that no row may be made of
BAD_RECORDS: list[tuple[bytes | None, list[tuple[str, bytes | None]]]] = [
    (b"junk", [("ingest_ms", b"1700000000000"), ("trace", b"t")]),
    (None, []),
    (LIKE, [("ingest_ms", b"1700000000000"), ("ingest_ms", b"1_000")]),
    *((LIKE, [("ingest_ms", text)]) for text in (b"", b" 5", b"5.7", b"+5", b"9" * 40, b"\xff")),
]


@pytest.fixture(scope="module")
def joined(setup: Callable[..., Setup], recording: Recording) -> Setup:
    """The recording, joined in thread mode, with records among the actions that cannot be used."""
    made = setup("thread")
    made.replay(recording)
    producer = Producer({"bootstrap.servers": made.config.kafka.bootstrap_servers})
    for value, headers in BAD_RECORDS:
        producer.produce(
            made.config.kafka.topics.actions, key=b"r1", value=value, timestamp=START_MS + 250, headers=headers
        )
    producer.flush(10)
    made.join("--until-latest", "--drain")
    return made


def without_ingest(block: ExampleBlock) -> bytes:
    unknown = np.full(len(block), -1, np.int64)
    return encode(replace(block, feature_ingest_ms=unknown, action_ingest_ms=unknown))


def test_every_example_is_there_once_and_right(joined: Setup) -> None:
    report = joined.audit()
    assert report.ok, "\n".join(report.lines())
    assert report.late_dropped == 0
    assert report.impressions == 5 * REQUESTS
    assert report.found == report.expected > 5 * REQUESTS
    assert report.unusable_events == len(BAD_RECORDS)


def test_a_bad_record_is_a_dead_letter_with_its_place(joined: Setup) -> None:
    topics = joined.config.kafka.topics
    letters = sorted(
        (stored.letter for stored in read_dead_letters(joined.config.kafka.connection, topics.dead_letters)),
        key=lambda letter: letter.offset,
    )
    assert letters[0].reason == "unknown schema: the record begins with 6a756e6b"
    for letter, (value, headers) in zip(letters, BAD_RECORDS, strict=True):
        assert (letter.topic, letter.key, letter.value, letter.cut) == (topics.actions, b"r1", value, False)
        assert letter.timestamp_ms == START_MS + 250
        # Of the headers the job sees the last ingest time, and how many others there are.
        assert letter.headers == tuple(header for header in headers[-1:] + headers[:1] if header[0] == "ingest_ms")[:1]
        assert letter.more_headers == (("trace", b"t") in headers)


def _rows(url: str) -> list[tuple[object, ...]]:
    """All rows of a set of example files, sorted, but for their places and when they were ingested."""
    blocks = [record.block for record in read_all(url, spec=SPEC)]
    rows: list[tuple[object, ...]] = []
    for block in blocks:
        assert block is not None
        n = len(block)
        columns: list[list[object]] = [
            [block.request_ids[at] for at in block.request_index],
            block.impression_ids.tolist(),
            *(
                np.ascontiguousarray(getattr(block, name)).reshape(n, -1).tolist()
                for name in ("dense", "labels", "mask", "sampling_rate", "label_kind")
            ),
            block.feature_time_ms.tolist(),
            block.action_time_ms.tolist(),
            [part.tolist() for part in np.split(block.fids, np.cumsum(row_fids(block))[:-1])],
        ]
        rows += zip(*columns, strict=True)
    return sorted(rows)


def row_fids(block: ExampleBlock) -> list[int]:
    """Fids per row."""
    if block.lengths is None:
        return [len(SPEC.slots)] * len(block)
    found: list[int] = block.lengths.reshape(len(block), -1).sum(axis=1, dtype=np.int64).tolist()
    return found


def test_a_dump_of_the_examples_has_the_rows_of_a_join_of_the_recording(
    joined: Setup, recording: Recording, tmp_path: Path
) -> None:
    config = load_config(joined.path)
    for _ in range(2):  # the second time there is nothing new
        wire_dump(replace(config, dump=DumpConfig(to=f"file://{tmp_path}/dumped", group_rows=3_000)), True).run(
            threading.Event()
        )
    join_recording(recording, config, str(tmp_path / "recorded"), keep_open=True)
    dumped, recorded = _rows(str(tmp_path / "dumped")), _rows(str(tmp_path / "recorded"))
    assert len(dumped) == joined.audit().found
    assert dumped == recorded


def test_process_mode_gives_byte_identical_blocks(joined: Setup, setup: Callable[..., Setup]) -> None:
    other = setup("process", flink=replace(FLINK, execution_mode="process"), raw_topics_of=joined)
    other.join("--until-latest", "--drain")
    assert sorted(map(encode, other.blocks())) == sorted(map(encode, joined.blocks()))


def test_a_second_replay_gives_the_same_examples(
    joined: Setup, setup: Callable[..., Setup], recording: Recording
) -> None:
    again = setup("again")
    again.replay(recording)
    again.join("--until-latest", "--drain")
    assert sorted(map(without_ingest, again.blocks())) == sorted(map(without_ingest, joined.blocks()))


def test_out_of_order_early_late_and_misplaced_events_are_joined_by_the_rules(
    setup: Callable[..., Setup], tmp_path: Path
) -> None:
    """Rules 3, 6 to 8, 11 and 13 of docs/join.md through real Flink: a task of aligned labels and one of immediate ones.

    A window is made to close before its late action.
    """
    spec = parse_spec(dump_spec(with_labels(SPEC, "aligned", "immediate")).replace('late = "drop"', 'late = "emit"'))
    made = setup("rules", joiner=replace(JOINER, late_retention_ms=600_000), spec=spec)
    topics, requests = made.config.kafka.topics, 200
    producer = Producer({"bootstrap.servers": made.config.kafka.bootstrap_servers})

    def send(event: FeatureEvent | ActionEvent, key: str | None = None, ingest_ms: int | None = None) -> None:
        producer.produce(
            topics.features if isinstance(event, FeatureEvent) else topics.actions,
            key=(event.request_id if key is None else key).encode(),
            value=encode(event),
            timestamp=event.event_time_ms,
            headers=None if ingest_ms is None else [("ingest_ms", str(ingest_ms).encode())],
        )

    for request in range(requests):
        at = START_MS + request * 1_000
        shown = replace(feature(request, at, impressions=5), spec_hash=spec.hash)
        send(shown)
        send(replace(shown, request_id=f"other{request}"), key=shown.request_id)  # wrong key
        send(action(request, 0, "watch", at + 4_000))
        send(action(request, 0, "watch", at + 2_000))  # happened before the one above
        send(action(request, 1, "like", at - 8_000))  # too early
        send(action(request, 2, "like", at - 3_000))  # early by less than clocks may differ
        send(action(request, 3, "like", at + 1_000), key=f"other{request}")  # wrong key
        send(action(request, 3, "like", at + 1_000), ingest_ms=at - 100_000_000)  # more than a day ahead of the clock
    producer.flush(10)
    process = Process("join", tmp_path)
    process.start([sys.executable, "-m", "rillet", "join", "--config", str(made.path), "--drain"])

    def sent(kind: LabelKind, request_id: str) -> bool:
        return any(
            block.request_ids[at] == request_id and of_row == kind
            for block in made.blocks()
            if block.mask[0]
            for at, of_row in zip(block.request_index, block.label_kind, strict=True)
        )

    try:
        wait_until(lambda: sent(LabelKind.NEGATIVE, "r0"), 90)
        for index in (3, 4):
            send(action(0, index, "watch", START_MS + 9_000))  # its window is closed
        producer.flush(10)
        wait_until(lambda: sent(LabelKind.LATE_POSITIVE, "r0"), 60)
    finally:
        process.stop(timeout_s=60)
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.early_actions, report.late_positive) == (requests, requests, 2)
    assert report.unusable_events == 3 * requests
    assert report.positive == 2 * requests + 2
    blocks = made.blocks()
    kinds = [Counter(int(k) for b in blocks if b.mask[task] for k in b.label_kind) for task in (0, 1)]
    assert kinds[0] == {
        LabelKind.POSITIVE: requests,
        LabelKind.NEGATIVE: kinds[0][LabelKind.NEGATIVE],
        LabelKind.LATE_POSITIVE: 2,
    }
    assert kinds[1] == {LabelKind.PROVISIONAL: 5 * requests, LabelKind.CORRECTION: requests}
    # Provisional negatives in one block per request; a positive with the negatives of its request.
    assert sum(1 for b in blocks if b.label_kind[0] == LabelKind.PROVISIONAL) == requests
    assert any({LabelKind.POSITIVE, LabelKind.NEGATIVE} <= set(b.label_kind.tolist()) for b in blocks if b.mask[0])
    letters = read_topic(made.config.kafka.bootstrap_servers, topics.dead_letters)
    assert sum(1 for _ in letters) == 3 * requests


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FlinkCluster]:
    running = start_cluster(tmp_path / "flink")
    try:
        yield running
    finally:
        running.stop()


def test_nothing_is_lost_or_doubled_when_a_task_manager_is_killed(
    cluster: FlinkCluster, setup: Callable[..., Setup], recording: Recording
) -> None:
    made = setup("killed")
    script = Path(__file__).parents[2] / "jobs" / "joiner_job.py"
    job = cluster.submit(script, ["--config", str(made.path)])
    # 200 s of events in about 20 s, so that the kill falls in the middle of the stream
    replaying = threading.Thread(target=made.replay, args=(recording, 10.0))
    replaying.start()
    wait_until(lambda: len(made.blocks()) > 200, 60)
    before = cluster.completed_checkpoints(job)
    cluster.task_manager(0).stop(kill=True)
    cluster.start_task_manager(1)
    replaying.join()
    wait_until(lambda: cluster.completed_checkpoints(job) > before + 1, 90)
    restarts = cluster.get(f"/jobs/{job}/exceptions") or {}
    assert restarts["exceptionHistory"]["entries"], "the kill was not noticed"
    cluster.drain(job)
    wait_until(lambda: cluster.job_state(job) == "FINISHED", 60)
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert report.late_dropped == 0
    assert report.impressions == 5 * REQUESTS


def test_a_local_joiner_goes_on_after_a_kill_and_after_a_clean_stop(
    setup: Callable[..., Setup], recording: Recording, tmp_path: Path
) -> None:
    made = setup("restarted")
    command = [sys.executable, "-m", "rillet", "join", "--config", str(made.path)]
    process = Process("join", tmp_path)
    replaying = threading.Thread(target=made.replay, args=(recording, 10.0))
    process.start(command)
    try:
        replaying.start()
        wait_until(lambda: len(made.blocks()) > 200, 60)
        process.stop(kill=True)
        process.start(command)
        seen = len(made.blocks())
        wait_until(lambda: len(made.blocks()) > seen, 60)
        process.stop(timeout_s=60)
        runs = JoinerRuns(made.path.parent / "data/joiner/runs")
        assert runs.newest is not None
        assert runs.newest.folder.name == "000002"
        assert not runs.newest.checkpoints, "no savepoint of the clean stop"
        process.start([*command, "--drain"])
        replaying.join()
        # One that has not begun yet ends at once.
        wait_until(lambda: bool(list((runs.folder / "000003").rglob("chk-*/_metadata"))), 90)
        with joiner_lag(made.config) as lag:
            wait_until(lambda: lag.records() == 0, 60)
    finally:
        process.stop(timeout_s=150)
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert report.late_dropped == 0
    assert report.impressions == 5 * REQUESTS


def test_a_bounded_run_goes_on_where_the_last_one_ended_and_so_does_a_live_one(
    setup: Callable[..., Setup], recording: Recording, tmp_path: Path
) -> None:
    made = setup("bounded")
    made.replay(recording)
    made.join("--until-latest")
    assert len(kept := made.blocks()) > 100
    # A savepoint goes with its data_dir, as to another machine.
    (made.path.parent / "data").rename(made.path.parent / "moved")
    made.path.write_text(made.path.read_text().replace('data_dir = "data"', 'data_dir = "moved"'))
    made.join("--until-latest")
    assert len(made.blocks()) == len(kept)
    process = Process("join", tmp_path)
    process.start([sys.executable, "-m", "rillet", "join", "--config", str(made.path), "--drain"])
    try:
        wait_until(lambda: bool(list((made.path.parent / "moved/joiner/runs/000003").rglob("chk-*/_metadata"))), 90)
    finally:
        process.stop(timeout_s=150)
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert report.impressions == 5 * REQUESTS


def test_a_quiet_site_a_mistake_and_a_changed_spec(setup: Callable[..., Setup], tmp_path: Path) -> None:
    """A day of the operator: wrong records are told, windows close in silence, a signal ends all, a spec is replaced."""
    flink = replace(FLINK, lateness_ms=1_000, idle_ms=2_000)
    made = setup(
        "quiet",
        JoinerConfig(slice_ms=1_000, action_wait_ms=60_000),
        flink,
        health=HealthConfig(join_port=free_port(), train_port=0),
    )
    spec_file, topics = made.path.parent / "spec.toml", made.config.kafka.topics
    other = parse_spec(dump_spec(SPEC).replace("max_values = 3", "max_values = 4"))
    producer = Producer({"bootstrap.servers": made.config.kafka.bootstrap_servers})

    def send(*events: FeatureEvent | ActionEvent) -> None:
        for event in events:
            topic = topics.features if isinstance(event, FeatureEvent) else topics.actions
            producer.produce(topic, key=event.request_id.encode(), value=encode(event), timestamp=event.event_time_ms)
        assert producer.flush(10) == 0

    def metrics() -> str:
        url = f"http://127.0.0.1:{made.config.health.join_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def gauge(name: str, text: str) -> float:
        found = re.search(rf"^rillet_joiner_{name}_seconds (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    now_ms = time.time_ns() // 1_000_000
    send(*(feature(request, now_ms, impressions=5) for request in range(60)))
    send(*(action(request, 0, "WATCH", now_ms) for request in range(60)))
    send(*(action(request, 1, "watch", now_ms) for request in range(10)))
    producer.produce(topics.features, key=b"r99", value=encode(feature(99, now_ms // 1_000)), timestamp=now_ms)
    assert producer.flush(10) == 0
    command = [sys.executable, "-m", "rillet", "join", "--config", str(made.path)]
    log = tmp_path / "log"
    with log.open("w") as written:
        running = subprocess.Popen(command, stdout=written, stderr=written, start_new_session=True)
    try:
        # The ten seconds of "watch", silence of two more, the lateness, and nothing else comes.
        wait_until(
            lambda: running.poll() is not None or any(LabelKind.NEGATIVE in b.label_kind for b in made.blocks()), 90
        )
        assert running.poll() is None, log.read_text()
        wait_until(lambda: 'rillet_joiner_unknown_actions_total{action="WATCH"} 60.0' in metrics(), 20)
        wait_until(lambda: abs(gauge("next_close", metrics()) - now_ms / 1_000 - 60) <= 1, 20)  # the windows of "like"
        found = metrics()
        second = made.run_join()
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        ended = running.wait(60)
    told = log.read_text()
    assert ended == 0, told
    assert "stopped with savepoint" in told
    assert not any(noise in told for noise in ("Traceback", "py4j", "CANNOT")), told
    for line in (
        *("features_total 60.0", "positives_total 10.0", "dead_letters_total 1.0", "open_requests 60.0"),
        'refused_total{error="TimeUnitError"} 1.0',
    ):
        assert f"rillet_joiner_{line}" in found, found
    assert now_ms / 1_000 < gauge("watermark", found) < time.time()
    assert re.search(r"\d+ % of \d+ actions are named 'WATCH', which no task asks for; did you mean 'watch'\?", told), (
        told
    )
    assert re.search(r"1 of \d+ records, now dead letters, have event times in another unit", told), told
    assert (second.returncode, f"pid {running.pid}" in second.stderr) == (2, True), second.stderr

    spec_file.write_text(dump_spec(other))
    refused = made.run_join()
    assert refused.returncode == 2
    assert "with the old settings run `rillet join --until-latest --drain`, then start again" in refused.stderr
    assert "joining" not in refused.stderr
    spec_file.write_text(dump_spec(SPEC))
    made.join("--until-latest", "--drain")
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    rows = sum(map(len, made.blocks()))
    assert rows == report.found

    spec_file.write_text(dump_spec(other))
    send(feature(500, now_ms), replace(feature(501, now_ms), spec_hash=other.hash), action(501, 0, "like", now_ms))
    done = made.run_join("--until-latest", "--drain")
    assert done.returncode == 0, done.stderr
    assert {r for b in made.blocks() if b.spec_hash == other.hash for r in b.request_ids} == {"r501"}
    reasons = [s.letter.reason for s in read_dead_letters(made.config.kafka.connection, topics.dead_letters)]
    assert len(reasons) == 2
    assert "looks like seconds" in reasons[0]
    assert "spec_hash" in reasons[1]

    kept = OwnFolder(made.path.parent / "data/joiner", JOINER_FILES)
    assert (bool(kept.look().own), kept.look().others) == (True, ())  # a reset knows all that Flink has written


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s:.0f} s"
        time.sleep(0.3)

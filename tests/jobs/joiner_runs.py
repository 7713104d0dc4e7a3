"""The joiner as its operator runs it, on topics and a configuration file of a test's own; and a recording to join."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.audit.comparison import AuditReport, audit_topics
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.topic_reader import read_topic
from rillet.connectors.topics import create_topics
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config, load_config
from rillet.joiner import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.operators.flink_log import flink_log
from rillet.recordings.format import Recording, RecordingWriter
from rillet.recordings.replay import replay
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, decode_as, dump_spec, encode
from tests.joiner.support import SPEC, action, feature

REQUESTS = 2_000
START_MS = 1_000_000_000_000
#: within which a bounded run has to end
_END_S = 240
#: little enough memory that most of the stream goes through the disk tier
JOINER = JoinerConfig(buckets=8, slice_ms=10_000, memory_bytes=1 << 20)
#: the topics may be read further apart than :func:`make_recording` lets them end
FLINK = FlinkConfig(lateness_ms=5_000, max_drift_ms=120_000, checkpoint_interval_ms=1_000)


def make_recording(directory: Path, spec: FeatureSpec = SPEC) -> Recording:
    """:data:`REQUESTS` requests of five impressions each, 200 s long; some actions come after their window's end."""
    rng = np.random.default_rng(3)
    events: list[FeatureEvent | ActionEvent] = []
    for request in range(REQUESTS):
        shown = replace(feature(request, START_MS + request * 100, impressions=5), spec_hash=spec.hash)
        events.append(shown)
        for index in range(5):
            for name, share, within_ms in (("watch", 0.2, 12_000), ("like", 0.1, 70_000)):
                if rng.random() < share:
                    events.append(action(request, index, name, shown.event_time_ms + int(rng.integers(0, within_ms))))
    with RecordingWriter(directory, spec, "test stream") as writer:
        for event in sorted(events, key=lambda e: e.event_time_ms):
            writer.write(event)
    return Recording(directory)


def _java_threads(parent: int) -> str:
    """What the threads of the Java processes that a process has started do."""
    found = subprocess.run(["pgrep", "-P", str(parent), "java"], capture_output=True, text=True, check=False)
    dumps = (
        subprocess.run(["jstack", child], capture_output=True, text=True, timeout=30, check=False)
        for child in found.stdout.split()
    )
    return "\n".join(dump.stdout or dump.stderr for dump in dumps)


@dataclass(frozen=True)
class JoinerRun:
    """A configuration file with topics of its own, and what one does with it."""

    config: RilletConfig
    path: Path

    @property
    def command(self) -> list[str]:
        """``rillet join`` on this configuration."""
        return [sys.executable, "-m", "rillet", "join", "--config", str(self.path)]

    def replay(self, recording: Recording, speed: float | None = None) -> None:
        """Sends a recording to the raw topics; ``speed`` 1 is the pace of the recording, None as fast as possible."""
        topics = self.config.kafka.topics
        servers = self.config.kafka.bootstrap_servers
        replay(recording, servers, speed=speed, features=topics.features, actions=topics.actions)

    def send(self, events: Sequence[FeatureEvent | ActionEvent]) -> None:
        """Sends events with their own keys and times, and waits until the broker has them."""
        topics = self.config.kafka.topics
        producer = Producer({"bootstrap.servers": self.config.kafka.bootstrap_servers})
        for event in events:
            topic = topics.features if isinstance(event, FeatureEvent) else topics.actions
            producer.produce(topic, key=event.request_id.encode(), value=encode(event), timestamp=event.event_time_ms)
        assert producer.flush(10) == 0

    def join(self, *options: str) -> None:
        """Runs the joiner to its end, which has to be a good one."""
        done = self.run_join(*options)
        assert done.returncode == 0, done.stderr[-3_000:]

    def run_join(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Runs the joiner to its end. One that does not come to it fails the test with what its threads do."""
        with subprocess.Popen([*self.command, *options], stdout=PIPE, stderr=PIPE, text=True) as process:
            try:
                out, errors = process.communicate(timeout=_END_S)
            except subprocess.TimeoutExpired:
                threads = _java_threads(process.pid)
                process.kill()
                out, errors = process.communicate()
                log = flink_log(self.path.parent / "data/joiner/log").read_text()
                pytest.fail(f"no end within {_END_S} s:\n{out}\n{errors}\n{log[-20_000:]}\n{threads}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def blocks(self) -> list[ExampleBlock]:
        """What is committed on the topic of examples."""
        values = read_topic(self.config.kafka.bootstrap_servers, self.config.kafka.topics.examples)
        return [decode_as(ExampleBlock, record.value or b"") for record in values]

    def audit(self) -> AuditReport:
        """The topics, compared with what the join should have given under the specs that the configuration names now."""
        topics, specs = self.config.kafka.topics, load_config(self.path).load_specs()
        report, _ = audit_topics(
            self.config.kafka.bootstrap_servers,
            specs.current,
            also_accepts=specs.others,
            lateness_ms=self.config.flink.lateness_ms,
            features=topics.features,
            actions=topics.actions,
            examples=topics.examples,
        )
        return report

    def audited(self, requests: int = REQUESTS) -> AuditReport:
        """The audit of a run of the whole recording, clean and with nothing dropped."""
        report = self.audit()
        assert report.ok, "\n".join(report.lines())
        assert report.late_dropped == 0
        assert report.impressions == 5 * requests
        return report


def make_run(
    folder: Path,
    servers: str,
    *,
    joiner: JoinerConfig = JOINER,
    flink: FlinkConfig = FLINK,
    spec: FeatureSpec = SPEC,
    health: HealthConfig | None = None,
    raw_topics_of: JoinerRun | None = None,
) -> JoinerRun:
    """Writes a configuration into ``folder`` and makes its topics, named after the folder.

    :param raw_topics_of: read the features and actions of another run.
    """
    (folder / "spec.toml").write_text(dump_spec(spec))
    name = folder.name
    raw = raw_topics_of.config.kafka.topics if raw_topics_of else TopicNames(f"f-{name}", f"a-{name}")
    config = RilletConfig(
        spec=Path("spec.toml"),
        data_dir=Path("data"),
        kafka=KafkaConfig(servers, TopicNames(raw.features, raw.actions, f"e-{name}", f"d-{name}", f"x-{name}")),
        joiner=joiner,
        flink=flink,
        health=health or HealthConfig(join_port=0, train_port=0),
    )
    create_topics(servers, config.kafka.topic_partitions)
    (folder / "rillet.toml").write_text(dump_config(config))
    return JoinerRun(config, folder / "rillet.toml")


def rows_of(blocks: Iterable[ExampleBlock | None], *, ingest: bool = False) -> list[tuple[object, ...]]:
    """All rows, sorted, wherever they stand: which rows share a block depends on what came first. Feature time is column -2.

    :param ingest: with the times at which feature and action were ingested, in front of it.
    """
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
            block.action_time_ms.tolist(),
            *([block.feature_ingest_ms.tolist(), block.action_ingest_ms.tolist()] if ingest else []),
            block.feature_time_ms.tolist(),
            [part.tolist() for part in np.split(block.row_fids()[0], np.cumsum(_row_fids(block))[:-1])],
        ]
        rows += zip(*columns, strict=True)
    return sorted(rows)


def _row_fids(block: ExampleBlock) -> list[int]:
    """Fids per row."""
    lengths = block.row_fids()[1]
    if lengths is None:
        return [len(SPEC.slots)] * len(block)
    found: list[int] = lengths.reshape(len(block), -1).sum(axis=1, dtype=np.int64).tolist()
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Asks until it is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s:.0f} s"
        time.sleep(0.2)

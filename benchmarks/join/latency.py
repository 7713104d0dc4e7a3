"""How long an action takes to its example while the joiner runs live, at a rate that it can well keep up with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from rillet.benchmarks.errors import BenchError
from rillet.benchmarks.join.contestant import Run
from rillet.benchmarks.join.contestants import Ours
from rillet.benchmarks.join.figures import Latency
from rillet.benchmarks.join.process_tree import ProcessTree
from rillet.benchmarks.join.shapes import GAP_MS, PAGE, load_of
from rillet.benchmarks.join.topics import examples_topic
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.topics import create_topics, delete_topics
from rillet.jobs.toolchain import python_environment
from rillet.recordings import Recording
from rillet.recordings.replay import replay
from rillet.schemas import ExampleBlock, LabelKind, decode_as

#: requests by which the joiner is known to be at work
_FIRST_REQUESTS = 200
_READY_S = 180.0
#: what is sent in the first part of the run is not judged: Java's compiler is still busy
_WARM_UP = 0.3
_LONGEST_S = 60.0
#: share of the examples that are due which must have come for their times to say something
_KEPT_UP = 0.9
#: from the last record until it is committed
_REST_S = 12.0


def measure_latency(
    contestant: Ours,
    servers: str,
    recording: Recording,
    impressions_per_s: float,
    folder: Path,
    partitions: int,
    say: Callable[[str], None],
) -> Latency:
    """Runs the joiner, and sends it the recording at a pace.

    :param impressions_per_s: at which impressions are sent, with their actions.
    :param folder: empty, for configuration and state.
    :raises BenchError: the joiner does not begin to write, or does not keep up.
    """
    name = f"live-{contestant.name}-{uuid4().hex[:8]}"
    features, actions = f"{name}-features", f"{name}-actions"
    create_topics(servers, {features: partitions, actions: partitions})
    run = Run(servers, features, actions, examples_topic(servers, name), folder)
    speed = impressions_per_s / PAGE * GAP_MS / 1_000
    requests = min(recording.info.requests, round(impressions_per_s / PAGE * _LONGEST_S))
    try:
        with (
            ProcessTree(contestant.command(run), python_environment(), folder / "join.log") as tree,
            _Arrivals(servers, run.examples) as arrivals,
        ):
            replay(recording, servers, features=features, actions=actions, requests=_FIRST_REQUESTS)
            _wait(lambda: bool(arrivals.rows), tree)
            say(f"{contestant.name}: sends {impressions_per_s:,.0f} impressions/s for {requests:,} requests")
            begin_s = time.time()
            sent = replay(recording, servers, speed=speed, features=features, actions=actions, requests=requests)
            judged_ms = (begin_s + _WARM_UP * sent.wall_s) * 1_000
            time.sleep(_REST_S)
    finally:
        delete_topics(servers, [features, actions, run.examples])
    rows = np.array([row for row in arrivals.rows if row[0] >= judged_ms], np.float64).reshape(-1, 3)
    due = (1 - _WARM_UP) * load_of(recording).positives * requests / recording.info.requests
    if len(rows) < _KEPT_UP * due:
        # What has not come yet would have the longest times.
        raise BenchError(
            f"{contestant.name}: of some {due:,.0f} examples {len(rows):,} had come {_REST_S:.0f} s after the last action, at"
            f" {impressions_per_s:,.0f} impressions/s: it has not kept up; run it with more --requests, on a quieter machine"
        )
    return Latency(rows[:, 1] - rows[:, 0], rows[:, 2] - rows[:, 0], sent.features * PAGE / sent.wall_s)


def _wait(ready: Callable[[], bool], tree: ProcessTree) -> None:
    until_s = time.monotonic() + _READY_S
    while not ready():
        if not tree.sample() or time.monotonic() > until_s:
            raise BenchError(f"has written nothing in {_READY_S:.0f} s: {tree.last_lines()}")
        time.sleep(0.2)


class _Arrivals:
    """Reads committed examples in a thread as they come; a context manager."""

    def __init__(self, servers: str, topic: str) -> None:
        self._consumer: Consumer = KafkaConnection.of(servers).consumer(
            {
                "group.id": topic,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        #: of each positive: when its action was sent, when the broker and when a reader had the row; epoch milliseconds
        self.rows: list[tuple[int, int, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, name="arrivals")

    def __enter__(self) -> _Arrivals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._end.is_set():
            messages = self._consumer.consume(1_000, timeout=0.05)
            now_ms = time.time() * 1_000
            for message in messages:
                if message.error() is not None:
                    continue
                block = decode_as(ExampleBlock, message.value() or b"")
                written_ms = message.timestamp()[1]
                for sent_ms in block.action_ingest_ms[block.label_kind == LabelKind.POSITIVE].tolist():
                    self.rows.append((sent_ms, written_ms, now_ms))

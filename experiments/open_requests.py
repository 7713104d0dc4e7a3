"""Requests whose windows are open by the million: what the joiner holds, what it writes, and how soon it is back.

    python -m experiments.open_requests --requests 2000000 --data FOLDER --json FILE

Windows of three days, and all requests within them, read from topics as fast as the joiner reads. Some seconds after the last record
it is killed (``kill -9``) and started again, while the rest of the records is sent. The joiner, the broker and their settings are
those that users get.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from rillet.benchmarks.join.process_tree import ProcessTree
from rillet.benchmarks.result import BenchResult, Figure
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.producers import INGEST_HEADER
from rillet.connectors.topics import create_topics
from rillet.devstack.broker import start_broker
from rillet.devstack.process import free_port
from rillet.inspection.scrape import scrape
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config
from rillet.jobs.toolchain import python_environment
from rillet.operators.flink_config import FlinkConfig
from rillet.schemas import VALUE_BITS, ActionEvent, FeatureEvent, FeatureSpec, Slot, dump_spec, encode
from rillet.schemas.spec import Task

WINDOW_MS = 3 * 86_400_000
#: fids of a request, and of each of its impressions
CONTEXT, ITEM = 4, 8
#: share of the impressions that have an action, within an hour
ACTION_RATE, SLOWEST_MS = 0.05, 3_600_000
#: share of the requests that is kept for after the restart
LATER = 0.01
SPEC = FeatureSpec(
    "windows",
    context=tuple(Slot(f"context_{i}", i + 1, "id") for i in range(CONTEXT)),
    item=tuple(Slot(f"item_{i}", CONTEXT + i + 1, "id") for i in range(ITEM)),
    dense=(),
    tasks=(Task("click", "click", WINDOW_MS, 0.1),),
)

_LONGEST_S = 3_600.0


@dataclass
class Held:
    """What the joiner showed, second by second."""

    requests: list[float] = field(default_factory=list)
    rss_bytes: list[float] = field(default_factory=list)
    state_bytes: list[float] = field(default_factory=list)
    #: of each checkpoint: seconds, bytes, and records that were read since the one before
    checkpoints: list[tuple[float, float, float]] = field(default_factory=list)


def events(requests: int, page: int, now_ms: int, seed: int = 0) -> Iterator[FeatureEvent | ActionEvent]:
    """Requests evenly over the three days before ``now_ms``, all but an hour of them, each with its actions."""
    rng = np.random.default_rng(seed)
    span_ms = WINDOW_MS - 2 * SLOWEST_MS
    ids = np.arange(page)
    slots = np.arange(1, CONTEXT + ITEM + 1, dtype=np.int64) << VALUE_BITS
    for number in range(requests):
        time_ms = now_ms - span_ms + number * span_ms // requests
        context = slots[:CONTEXT] | rng.integers(1, 1_000_000, CONTEXT)
        items = np.tile(slots[CONTEXT:], page) | rng.integers(1, 1_000_000, ITEM * page)
        name = f"r{number:09d}"
        yield FeatureEvent(name, time_ms, SPEC.hash, context, ids, items)
        for index in np.flatnonzero(rng.random(page) < ACTION_RATE).tolist():
            yield ActionEvent(name, min(time_ms + int(rng.integers(1_000, SLOWEST_MS)), now_ms), index, "click")


class Topics:
    """The topics of one run, on a broker of its own."""

    def __init__(self, servers: str, partitions: int) -> None:
        self.names = TopicNames()
        self._kafka = KafkaConnection.of(servers)
        create_topics(
            self._kafka, {self.names.features: partitions, self.names.actions: partitions, self.names.examples: 1}
        )
        self._producer = self._kafka.producer({"linger.ms": 50, "queue.buffering.max.messages": 500_000})
        self.sent = 0

    def send(self, made: Iterator[FeatureEvent | ActionEvent], requests: int) -> None:
        """The events of so many requests more."""
        headers: list[tuple[str, str | bytes | None]] = [(INGEST_HEADER, b"%d" % (time.time() * 1_000))]
        names = self.names
        for event in made:
            topic = names.features if isinstance(event, FeatureEvent) else names.actions
            while True:
                try:
                    self._producer.produce(topic, encode(event), event.request_id.encode(), headers=headers)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self.sent += 1
            self._producer.poll(0)
            requests -= isinstance(event, FeatureEvent)
            if not requests:
                break
        if self._producer.flush(60):
            raise SystemExit("the broker did not take all records")

    def first_after(self, offset: int, within_s: float) -> float:
        """Waits for a committed record at ``offset`` or after it; epoch seconds."""
        consumer = self._consumer()
        consumer.assign([TopicPartition(self.names.examples, 0, offset)])
        until_s = time.monotonic() + within_s
        try:
            while time.monotonic() < until_s:
                for message in consumer.consume(1, timeout=0.2):
                    if message.error() is None:
                        return time.time()
        finally:
            consumer.close()
        raise SystemExit(f"no example within {within_s:.0f} s of the restart")

    def end(self) -> int:
        """After the last committed example."""
        consumer = self._consumer()
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(self.names.examples, 0), timeout=10)[1])
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        return self._kafka.consumer(
            {
                "group.id": "open",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
            }
        )


def watch(tree: ProcessTree, url: str, records: int) -> Held:
    """Follows the joiner until it has read so many records."""
    held, began_s, told_s = Held(), time.monotonic(), 0.0
    read_before, checkpoint_before = 0.0, 0.0
    while tree.sample():
        now_s = time.monotonic()
        if now_s - began_s > _LONGEST_S:
            raise SystemExit(f"not read within {_LONGEST_S:,.0f} s: {tree.last_lines()}")
        shown = scrape(url)
        if shown is not None:
            read = shown.get("rillet_joiner_features_total") + shown.get("rillet_joiner_actions_total")
            held.requests.append(shown.get("rillet_joiner_open_requests"))
            held.rss_bytes.append(tree.usage.samples[-1].rss_bytes)
            held.state_bytes.append(shown.get("rillet_joiner_state_bytes"))
            complete = shown.get("rillet_joiner_checkpoints_total")
            if complete > checkpoint_before:
                seconds, size = (
                    shown.get("rillet_joiner_checkpoint_seconds"),
                    shown.get("rillet_joiner_checkpoint_bytes"),
                )
                held.checkpoints.append((seconds, size, read - read_before))
                checkpoint_before, read_before = complete, read
            if now_s - told_s > 15:
                print(
                    f"{now_s - began_s:6.0f} s  {read:12,.0f} of {records:,} records  {held.requests[-1]:12,.0f} open"
                    f"  {held.rss_bytes[-1] / 2**20:6,.0f} MiB  state {held.state_bytes[-1] / 2**20:8,.0f} MiB",
                    flush=True,
                )
                told_s = now_s
            if read >= records:
                return held
        time.sleep(0.5)
    raise SystemExit(f"the joiner ended: {tree.last_lines()}")


def run(requests: int, page: int, folder: Path) -> BenchResult:
    """All of it, in a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = start_broker(folder / "broker")
    try:
        topics = Topics(broker.bootstrap_servers, 2)
        port = free_port()
        config = RilletConfig(
            spec=Path("spec.toml"),
            data_dir=Path("data"),
            kafka=KafkaConfig(broker.bootstrap_servers, topics.names),
            flink=FlinkConfig(),
            health=HealthConfig(join_port=port, train_port=0, dump_port=0),
        )
        (folder / "spec.toml").write_text(dump_spec(SPEC), "utf-8")
        (folder / "rillet.toml").write_text(dump_config(config), "utf-8")
        command = [sys.executable, "-m", "rillet", "join", "--config", str(folder / "rillet.toml")]
        made = events(requests, page, int(time.time() * 1_000))
        later = max(1, round(requests * LATER))
        print("sending", flush=True)
        topics.send(made, requests - later)
        with ProcessTree(command, python_environment(), folder / "join.log") as tree:
            began_s = time.monotonic()
            held = watch(tree, f"http://127.0.0.1:{port}/metrics", topics.sent)
            reading_s = time.monotonic() - began_s
            time.sleep(2 * config.flink.checkpoint_interval_ms / 1_000)
        # Leaving the tree kills all of it.
        end, killed_s = topics.end(), time.time()
        with ProcessTree(command, python_environment(), folder / "again.log") as tree:
            topics.send(made, later)
            back_s = topics.first_after(end, 300) - killed_s
            tree.sample()
    finally:
        broker.stop()
    return _result(held, topics.sent, reading_s, back_s)


def _result(held: Held, records: int, reading_s: float, back_s: float) -> BenchResult:
    read = np.array([checkpoint for checkpoint in held.checkpoints if checkpoint[2]])
    per_record = [part[:, 1].sum() / part[:, 2].sum() for part in np.array_split(read, 4) if len(part)]
    subject = "joiner"
    figures = [
        Figure(subject, "open requests", max(held.requests), "requests"),
        Figure(subject, "records", records / reading_s, "records/s"),
        Figure(subject, "peak RSS", max(held.rss_bytes) / 2**20, "MiB"),
        Figure(subject, "state", max(held.state_bytes) / 2**20, "MiB"),
        Figure(subject, "longest checkpoint", max(seconds for seconds, _, _ in held.checkpoints), "s"),
        *(
            Figure(f"quarter {number + 1} of the checkpoints", "written", size, "bytes per record read")
            for number, size in enumerate(per_record)
        ),
        Figure(subject, "killed to first example", back_s, "s"),
    ]
    return BenchResult("open_requests", figures)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--page", type=int, default=2, help="impressions of a request")
    parser.add_argument("--data", type=Path, default=Path("var/open-requests"), help="made anew; some gigabytes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    result = run(given.requests, given.page, given.data.absolute())
    print("\n".join(result.lines()))
    if given.json:
        result.write(given.json)


if __name__ == "__main__":
    main()

"""What JSON topics cost beside native ones: CPU time of the conversion alone, and of the whole joiner.

    python -m experiments.source_speed --requests 20000

Pages of 16 candidates with 2 context slots, 3 item slots (text, a list of categories, a binned number) and a dense
feature; 1.6 actions per page. The joiner runs in real Flink against a broker of its own, once over empty topics, so that its
start is known, once over native topics and once over the same records as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.topics import create_topics
from rillet.devstack.broker import start_broker
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config
from rillet.schemas import check_event, decode_event, dump_spec, parse_spec
from rillet.sources import ActionSource, FeatureSource, Kind, NativeRecord, SourcesConfig, make_converter

SPEC = parse_spec("""
[spec]
name = "news"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "device"
slot = 2
kind = "token"
[[item]]
name = "article"
slot = 16
kind = "token"
[[item]]
name = "categories"
slot = 17
kind = "token"
max_values = 3
[[item]]
name = "age"
slot = 18
kind = "number"
bins = [1.0, 6.0, 24.0]
[[dense]]
name = "age_hours"
[[tasks]]
name = "click"
action = "click"
window_ms = 60_000
""")
SOURCES = SourcesConfig(
    FeatureSource(
        "json",
        request_id="page",
        time="at",
        items="articles",
        impression_id="id",
        slots={"article": "id", "age": "age_hours"},
    ),
    ActionSource("json", request_id="page", time="at", impression_id="article", action="type"),
)
START_MS = 1_763_770_000_000
CANDIDATES = 16


def records(requests: int) -> list[tuple[Kind, int, bytes]]:
    """(topic, time, JSON) of pages and actions, in order of time."""
    rng = np.random.default_rng(1)
    found: list[tuple[Kind, int, bytes]] = []

    def add(kind: Kind, at: int, value: dict[str, Any]) -> None:
        found.append((kind, at, json.dumps(value).encode()))

    for request in range(requests):
        at, page = START_MS + request * 20, f"page-{request:08}"
        articles = [
            {"id": f"article-{article}", "categories": ["sport", f"c{article % 50}"], "age_hours": article % 480 / 10}
            for article in rng.choice(10_000, CANDIDATES, replace=False).tolist()
        ]
        add("features", at, {"page": page, "at": at, "user": request % 5_000, "device": "phone", "articles": articles})
        for article in articles[: int(rng.integers(0, 4)) or 1]:
            add("actions", at + 9_000, {"page": page, "at": at + 9_000, "article": article["id"], "type": "click"})
    return sorted(found, key=lambda record: record[1])


def cpu_us(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU time per item, the better of two passes."""
    best = np.inf
    for _ in range(2):
        started = time.process_time()
        for item in items:
            work(item)
        best = min(best, time.process_time() - started)
    return best / len(items) * 1e6


def joiner_cpu_s(folder: Path, broker: str, name: str, sources: SourcesConfig, sent: Sequence[Any]) -> float:
    """CPU time of ``rillet join --until-latest`` over these records: (topic, time, key, value)."""
    folder = folder / name
    folder.mkdir()
    (folder / "spec.toml").write_text(dump_spec(SPEC))
    topics = TopicNames(*(f"{name}-{topic}" for topic in ("features", "actions", "examples", "deltas", "letters")))
    config = RilletConfig(
        spec=Path("spec.toml"),
        data_dir=Path("data"),
        kafka=KafkaConfig(broker, topics),
        sources=sources,
        health=HealthConfig(join_port=0),
    )
    (folder / "rillet.toml").write_text(dump_config(config))
    create_topics(broker, config.kafka.topic_partitions)
    producer = Producer({"bootstrap.servers": broker, "queue.buffering.max.messages": 1_000_000})
    for kind, at, key, value in sent:
        producer.produce(getattr(topics, kind), value, key, timestamp=at)
        producer.poll(0)
    producer.flush(60)
    command = [sys.executable, "-m", "rillet", "join", "--until-latest", "--config", str(folder / "rillet.toml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    used: dict[int, float] = {}
    while process.poll() is None:
        # Flink's Java process is nobody's to wait for, so its time is in no total: it is read while it runs.
        for pid in family(process.pid):
            used[pid] = max(used.get(pid, 0.0), cpu_s(pid))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{name}: the joiner failed")
    return sum(used.values())


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for tasks in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (tasks / "children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, 0 when it is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--no-flink", action="store_true", help="the conversion alone")
    options = parser.parse_args(arguments)
    lying = records(options.requests)
    kinds: tuple[Kind, ...] = ("features", "actions")
    converters = {kind: found for kind in kinds if (found := make_converter(kind, SPEC, SOURCES))}
    native = [(kind, at, converters[kind].native(None, value)) for kind, at, value in lying]
    for kind in kinds:
        converting = cpu_us(partial(converters[kind].native, None), [value for of, _, value in lying if of == kind])

        def read(record: NativeRecord) -> None:
            check_event(SPEC, decode_event(record.value, record.key), -1, 0)

        reading = cpu_us(read, [record for of, _, record in native if of == kind])
        print(f"{kind}: {converting:.0f} us per record to convert, {1e6 / converting:,.0f} per second and core;")
        print(f"  reading and checking the native record: {reading:.0f} us")
    if options.no_flink:
        return
    as_json = [(kind, at, None, value) for kind, at, value in lying]
    as_native = [(kind, at, record.key, record.value) for kind, at, record in native]
    with tempfile.TemporaryDirectory() as folder:
        broker = start_broker(Path(folder) / "broker")
        try:
            address = broker.bootstrap_servers
            start = joiner_cpu_s(Path(folder), address, "empty", replace(SOURCES), [])
            by = {
                name: joiner_cpu_s(Path(folder), address, name, sources, sent) - start
                for name, sources, sent in (("native", SourcesConfig(), as_native), ("json", SOURCES, as_json))
            }
        finally:
            broker.stop()
    for name, seconds in by.items():
        print(f"joiner, {name}: {seconds:.1f} s of CPU beside {start:.1f} s of start")
    print(f"json / native: {by['json'] / by['native']:.2f}")


if __name__ == "__main__":
    main()

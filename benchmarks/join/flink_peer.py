"""The Flink jobs that ours is measured beside: ``python -m rillet.benchmarks.join.flink_peer JOB OPTIONS``.

They run in a mini-cluster with the settings of ``rillet join``, thread mode, exactly once into Kafka.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from pyflink.common import Configuration, Row, Types
from pyflink.common.serialization import RowFieldExtractorSchema
from pyflink.datastream import (
    KeyedProcessFunction,
    ProcessFunction,
    RuntimeContext,
    StreamExecutionEnvironment,
)
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaRecordSerializationSchema, KafkaSink
from pyflink.datastream.data_stream import DataStream
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.table import StreamTableEnvironment

from rillet.benchmarks.join.contestant import Run
from rillet.benchmarks.join.contestants import NEGATIVE, POSITIVE
from rillet.benchmarks.join.flink_sql import statements
from rillet.benchmarks.join.shapes import NEGATIVE_RATE, WINDOW_MS
from rillet.jobs.joiner_job import JobOptions, settings
from rillet.jobs.toolchain import fetch_jars
from rillet.operators.flink_config import FlinkConfig

BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
KEY_VALUE = Types.ROW([BYTES, BYTES])
#: (is it a feature, impression, event time, record)
ROWS = Types.ROW([Types.BOOLEAN(), Types.STRING(), Types.LONG(), BYTES])
_PASSED_ONE_OF = 5
_SAMPLE_ONE_OF = round(1 / NEGATIVE_RATE)


class PlainJoin(KeyedProcessFunction):  # type: ignore[misc]
    """The join that one writes first: an impression is a key, with its features, its action and a timer in Flink's state."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Declares the state."""
        # Thread mode gives arrays of bytes back as tuples of integers.
        self._features = runtime_context.get_state(ValueStateDescriptor("features", Types.PICKLED_BYTE_ARRAY()))
        self._shown_ms = runtime_context.get_state(ValueStateDescriptor("shown", Types.LONG()))
        self._action_ms = runtime_context.get_state(ValueStateDescriptor("action", Types.LONG()))

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """A positive goes out once its features and its action are both there, whichever comes first."""
        is_feature, _, time_ms, record = value
        known_action_ms = self._action_ms.value()
        if is_feature:
            features, shown_ms, action_ms = bytes(record), time_ms, known_action_ms
            self._features.update(features)
            self._shown_ms.update(shown_ms)
        elif known_action_ms is None:
            features, shown_ms, action_ms = self._features.value(), self._shown_ms.value(), time_ms
        else:
            return
        ctx.timer_service().register_event_time_timer(time_ms + WINDOW_MS)
        if shown_ms is not None and action_ms is not None and not 0 <= action_ms - shown_ms < WINDOW_MS:
            action_ms = None
        if action_ms != known_action_ms:
            self._action_ms.clear() if action_ms is None else self._action_ms.update(action_ms)
        if features is not None and action_ms is not None:
            yield Row(POSITIVE, features)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        """The window is over: the sample of what has no action goes out, and everything is forgotten."""
        features, shown_ms = self._features.value(), self._shown_ms.value()
        if shown_ms is not None and timestamp != shown_ms + WINDOW_MS:
            return
        if features is not None and self._action_ms.value() is None and _is_sampled(ctx.get_current_key()):
            yield Row(NEGATIVE, features)
        for state in (self._features, self._shown_ms, self._action_ms):
            state.clear()


class PassSome(ProcessFunction):  # type: ignore[misc]
    """Every record comes to Python, and some features go on: about as many bytes as a join writes."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Begins to count."""
        self._features = 0

    def process_element(self, value: Any, ctx: ProcessFunction.Context) -> Iterator[Any]:
        """Drops actions, and most features."""
        self._features += value[0]
        if value[0] and self._features % _PASSED_ONE_OF == 0:
            yield Row(b"", value[1])


def _is_sampled(key: str) -> bool:
    return crc32(key.encode()) % _SAMPLE_ONE_OF == 0


def run_job(job: str, run: Run, state_backend: str) -> None:
    """Runs a job to the ends of its topics."""
    config = FlinkConfig(parallelism=run.parallelism, state_backend=state_backend)  # type: ignore[arg-type]
    env = StreamExecutionEnvironment.get_execution_environment(_mini_cluster(run))
    env.add_jars(fetch_jars().connector.as_uri())
    flink = settings(config, JobOptions(idle_sources=False))
    # Peers are never gone on with, so their operators need no names.
    flink.set_string("pipeline.auto-generate-uids", "true")
    flink.set_string("pipeline.name", job)
    flink.set_string("restart-strategy.type", "none")
    env.configure(flink)
    tables = StreamTableEnvironment.create(env)
    for statement in statements("sources", run):
        tables.execute_sql(statement)
    if job == "interval-join":
        create, insert = statements("interval_join", run)
        tables.execute_sql(create)
        tables.execute_sql(insert).wait()
        return
    if job == "plain-join":
        (query,) = statements("one_stream", run)
        rows = tables.to_append_stream(tables.sql_query(query), ROWS)
        examples = rows.key_by(lambda row: row[1], Types.STRING()).process(PlainJoin(), KEY_VALUE)
    else:
        (query,) = statements("bytes_alone", run)
        rows = tables.to_append_stream(tables.sql_query(query), Types.ROW([Types.INT(), BYTES]))
        examples = rows.process(PassSome(), KEY_VALUE)
    _write(examples, run)
    env.execute(job)


def _write(examples: DataStream, run: Run) -> None:
    record = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(run.examples)
        .set_key_serialization_schema(RowFieldExtractorSchema(0))
        .set_value_serialization_schema(RowFieldExtractorSchema(1))
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(run.servers)
        .set_record_serializer(record)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(run.examples)
        .set_property("transaction.timeout.ms", "900000")
        .set_property("compression.type", "lz4")
        .build()
    )
    examples.sink_to(sink)


def _mini_cluster(run: Run) -> Configuration:
    """As that of ``rillet join``."""
    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("rest.bind-address", "127.0.0.1")
    flink.set_string("execution.checkpointing.dir", (run.folder / "checkpoints").absolute().as_uri())
    flink.set_string("taskmanager.memory.managed.size", "256m")
    flink.set_string("taskmanager.memory.network.min", "64m")
    flink.set_string("taskmanager.memory.network.max", "64m")
    return flink


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("interval-join", "plain-join", "passthrough"))
    parser.add_argument("--state-backend", default="rocksdb")
    for name in ("servers", "features", "actions", "examples"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--parallelism", type=int, default=1)
    known = vars(parser.parse_args())
    job, state_backend = known.pop("job"), known.pop("state_backend")
    os.environ.setdefault("JVM_ARGS", "-Xmx1200m -XX:+UseSerialGC")
    run_job(job, Run(**known), state_backend)


if __name__ == "__main__":
    main()

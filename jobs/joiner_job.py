"""The joiner as a Flink job: two Kafka topics in, examples and dead letters out, exactly once.

Runs in Flink's mini-cluster (``rillet join``) and on a cluster:
``flink run -py jobs/joiner_job.py --config rillet.toml``. This is the only place that knows how PyFlink
has to be talked to; the join itself is ``joiner/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyflink.common import Configuration, Types
from pyflink.common.serialization import RowFieldExtractorSchema
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaRecordSerializationSchema, KafkaSink
from pyflink.datastream.data_stream import DataStream, KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from rillet.connectors.lag import GroupLag
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.connectors.silence import TopicSilence
from rillet.connectors.topics import topic_ids
from rillet.jobs.config import RilletConfig, load_config
from rillet.joiner import KeptSettings
from rillet.operators.conversion_function import BUCKET_RECORD, ConversionFunction, converted_topics
from rillet.operators.flink_config import joiner_group, joiner_name
from rillet.operators.joiner_function import BYTES, DEAD_LETTERS, KEY_VALUE, JoinFunction

if TYPE_CHECKING:
    from rillet.operators.flink_config import FlinkConfig
    from rillet.sources import Kind

#: the broker's default maximum; has to outlast an interval and a checkpoint, or committed rows are aborted
_TRANSACTION_TIMEOUT_MS = 15 * 60_000
_CHECKPOINT_TIMEOUT_MS = 5 * 60_000
#: SQL for the event time that a record shows to be reached: its timestamp, but no later than it was sent. On a backlog the
#: clock bounds nothing, and one event from the future would make all that comes after it in its partition late. Null, which
#: moves nothing, where the header is no time; without a header the clock of the reader is all there is.
_REACHED = """LEAST(ts, CURRENT_TIMESTAMP, CASE WHEN headers['ingest_ms'] IS NULL THEN ts ELSE
                TO_TIMESTAMP_LTZ(TRY_CAST(DECODE(headers['ingest_ms'], 'ISO-8859-1') AS BIGINT), 3) END)"""
#: name of the operator that joins
OPERATOR = "join"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What differs from run to run."""

    #: savepoint or checkpoint to go on from
    restore_from: str | None = None
    #: whether partitions without records stop to hold the watermark back. Of a source whose partitions all have, Flink
    #: drops the watermark of a drain too, and no window would close.
    idle_sources: bool = True
    #: whether partitions are read side by side in event time, see ``max_drift_ms``
    aligned: bool = True
    local_dir: str | None = None
    #: what the broker calls the raw topics; of one that was made anew, or is on another broker, no offset is gone on with
    topic_ids: Mapping[Kind, str] = field(default_factory=dict)


def settings(config: FlinkConfig, options: JobOptions) -> Configuration:
    """Flink settings that belong to the job, whichever cluster it runs on."""
    flink = Configuration()
    flink.set_string("python.execution-mode", config.execution_mode)
    flink.set_string("python.fn-execution.bundle.time", str(config.bundle_time_ms))
    flink.set_string("pipeline.name", "rillet joiner")
    flink.set_string("pipeline.object-reuse", "true")
    flink.set_string("parallelism.default", str(config.parallelism))
    # In which times become text, see _records.
    flink.set_string("table.local-time-zone", "UTC")
    if options.idle_sources:
        # That a topic is silent as a whole is known by what checkpoints have committed: it has to be known before.
        idle_ms = config.idle_ms + 2 * config.checkpoint_interval_ms
        flink.set_string("table.exec.source.idle-timeout", f"{idle_ms} ms")
    flink.set_string("execution.checkpointing.interval", f"{config.checkpoint_interval_ms} ms")
    flink.set_string("execution.checkpointing.timeout", f"{_CHECKPOINT_TIMEOUT_MS} ms")
    flink.set_string("execution.checkpointing.mode", "EXACTLY_ONCE")
    flink.set_string("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION")
    flink.set_string("state.backend.type", config.state_backend)
    flink.set_string("execution.checkpointing.incremental", str(config.state_backend == "rocksdb").lower())
    if config.max_restarts:
        # Bounded: with checkpoints on, Flink would otherwise restart a job that cannot start for ever.
        flink.set_string("restart-strategy.type", "exponential-delay")
        flink.set_string("restart-strategy.exponential-delay.initial-backoff", "1 s")
        flink.set_string("restart-strategy.exponential-delay.max-backoff", "30 s")
        flink.set_string("restart-strategy.exponential-delay.attempts-before-reset-backoff", str(config.max_restarts))
    else:
        flink.set_string("restart-strategy.type", "none")
    if options.restore_from:
        flink.set_string("execution.state-recovery.path", options.restore_from)
        # A drained join of other settings: nothing of it is needed but the offsets of the same topics.
        flink.set_string("execution.state-recovery.ignore-unclaimed-state", "true")
    return flink


def build(env: StreamExecutionEnvironment, config: RilletConfig, options: JobOptions) -> None:
    """Adds the joiner's pipeline to an environment."""
    join, topics = config.joiner, config.kafka.topics
    env.configure(settings(config.flink, options))
    tables = StreamTableEnvironment.create(env)
    raw: dict[Kind, str] = {"features": topics.features, "actions": topics.actions}
    for kind, topic in raw.items():
        tables.execute_sql(_source(config, topic, kind, options))
    spec, sources = config.load_spec(), config.sources
    converted = converted_topics(sources)
    queries = {kind: _records(topic, kind, join.buckets) for kind, topic in raw.items()}
    # Native topics go in together: no record of theirs passes through Python before it is keyed.
    native = " UNION ALL ".join(query for kind, query in queries.items() if kind not in converted)
    streams = [tables.to_append_stream(tables.sql_query(native), BUCKET_RECORD)] if native else []
    refused = []
    for kind in converted:
        lying = tables.to_append_stream(tables.sql_query(queries[kind]), BUCKET_RECORD)
        conversion = ConversionFunction(kind, spec, sources, buckets=join.buckets, max_ahead_ms=join.max_ahead_ms)
        stream = lying.process(conversion, BUCKET_RECORD).name(f"convert-{kind}").uid(f"convert-{kind}")
        streams.append(stream)
        refused.append(stream.get_side_output(DEAD_LETTERS))
    silence = None
    if "config.providers" not in config.kafka.flink:
        # Otherwise the tasks shall find the secrets where they run, which librdkafka cannot; none must be in the job.
        silence = partial(TopicSilence, config.kafka.connection, groups(config), config.flink.idle_ms)
    function = JoinFunction(spec, join, config.flink, silence, options.local_dir)
    records = _union(streams)
    _name_sources(records, options.topic_ids)
    joined = _key_by_bucket(records).process(function, KEY_VALUE)
    # State of other settings cannot be gone on with: it is the state of another operator.
    joined.name(OPERATOR).uid(f"join-{KeptSettings.of(spec, join).digest:016x}")
    joined.sink_to(_sink(config, topics.examples, options)).name("examples").uid("examples")
    letters = _union([joined.get_side_output(DEAD_LETTERS), *refused])
    letters.sink_to(_sink(config, topics.dead_letters, options)).name("dead letters").uid("dead-letters")


def _name_sources(rows: DataStream, topic_ids: Mapping[Kind, str]) -> None:
    """Gives each topic's reader a uid of its own, under which its offsets are kept.

    SQL sources have none; their state would hang on their places in the graph, which a topic's conversion changes. A source
    goes on at its offsets whatever topic it is given then, so the topic's id is a part of the uid.
    """
    for transformation in rows._j_data_stream.getTransformation().getTransitivePredecessors():
        if transformation.getClass().getSimpleName() == "SourceTransformation":
            table = transformation.getName().rpartition(".")[2]
            transformation.setUid("-".join(filter(None, ("read", table, topic_ids.get(table)))))


def _union(streams: list[DataStream]) -> DataStream:
    return streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]


def operators(config: RilletConfig) -> list[str]:
    """Names of the operators that count records."""
    return [OPERATOR, *(f"convert-{kind}" for kind in converted_topics(config.sources))]


def groups(config: RilletConfig) -> dict[str, str]:
    """Raw topic to the consumer group under which the job commits how far its checkpoints have read it."""
    topics = config.kafka.topics
    return {
        topics.features: joiner_group(topics.examples, "features"),
        topics.actions: joiner_group(topics.examples, "actions"),
    }


def ids_of_topics(config: RilletConfig) -> dict[Kind, str]:
    """The ids that the broker gave the raw topics.

    :raises RilletError: the broker does not answer, or lacks a topic.
    """
    topics = config.kafka.topics
    ids = topic_ids(config.kafka.connection, [topics.features, topics.actions])
    return {"features": ids[topics.features], "actions": ids[topics.actions]}


def forget_progress(config: RilletConfig) -> None:
    """Puts the groups back before a job starts, so that what they commit is what this job has read.

    :raises RilletError: the broker does not answer, or lacks a topic.
    """
    with GroupLag(config.kafka.connection, groups(config)) as lag:
        lag.forget()


def _source(config: RilletConfig, topic: str, table: str, options: JobOptions) -> str:
    """DDL of a raw topic. The record's timestamp is the event time."""
    flink = config.flink
    client = {f"properties.{name}": value for name, value in config.kafka.flink_settings.items()}
    more = client | {
        "connector": "kafka",
        "topic": topic,
        "properties.bootstrap.servers": config.kafka.bootstrap_servers,
        "properties.isolation.level": "read_committed",
        "properties.group.id": groups(config)[topic],
        "scan.startup.mode": "earliest-offset",
        "key.format": "raw",
        "key.fields": "k",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }
    if flink.max_drift_ms and options.aligned:
        more["scan.watermark.alignment.group"] = "rillet"
        more["scan.watermark.alignment.max-drift"] = f"{flink.max_drift_ms} ms"
        more["scan.watermark.alignment.update-interval"] = "200 ms"
    pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in more.items())
    return f"""
        CREATE TEMPORARY TABLE `{table}` (
            k BYTES,
            v BYTES,
            `partition` INT METADATA VIRTUAL,
            `offset` BIGINT METADATA VIRTUAL,
            headers MAP<STRING, BYTES> METADATA VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            WATERMARK FOR ts AS {_earlier(_REACHED, flink.lateness_ms)}
        ) WITH ({pairs})"""


def _quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _earlier(column: str, span_ms: int) -> str:
    """SQL for a time that lies a span before a column; interval literals have two digits a unit."""
    seconds, milliseconds = divmod(span_ms, 1000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
    return f"{column} - INTERVAL '{days} {clock}' DAY(3) TO SECOND(3)"


def _records(topic: str, table: str, buckets: int) -> str:
    """(bucket, record as :func:`rillet.operators.records.split_record` takes it).

    Text of one byte per character carries the bytes through SQL.
    """
    key = "COALESCE(DECODE(k, 'ISO-8859-1'), '')"
    ingest = "COALESCE(DECODE(headers['ingest_ms'], 'ISO-8859-1'), '')"
    return f"""
        SELECT
            MOD(MOD(HASH_CODE({key}), {buckets}) + {buckets}, {buckets}),
            ENCODE(CONCAT(
                '{topic},', CAST(`partition` AS STRING), ',', CAST(`offset` AS STRING), ',',
                COALESCE(CAST(ts AS STRING), ''), ',', CAST(COALESCE(CARDINALITY(headers), 0) AS STRING), ',',
                CAST(CASE WHEN k IS NULL THEN -1 ELSE CHAR_LENGTH({key}) END AS STRING), ',',
                CAST(CASE WHEN headers['ingest_ms'] IS NULL THEN -1 ELSE CHAR_LENGTH({ingest}) END AS STRING), ',',
                CASE WHEN v IS NULL THEN '-' ELSE '+' END,
                U&'\\000A', {key}, {ingest}, COALESCE(DECODE(v, 'ISO-8859-1'), '')
            ), 'ISO-8859-1')
        FROM `{table}`"""  # noqa: S608 - topic names are checked, and come from our own configuration


def _key_by_bucket(rows: DataStream) -> KeyedStream:
    """Keys (bucket, bytes) rows on the JVM; the process function then receives the bytes alone.

    ``DataStream.key_by`` would send every record through a Python operator just to find its key. PyFlink's
    own key selector on an existing key column does without.
    """
    key_type = Types.ROW([Types.INT()])
    selector = get_gateway().jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    return KeyedStream(rows._j_data_stream.keyBy(selector, key_type.get_java_type_info()), BYTES, rows)


def _sink(config: RilletConfig, topic: str, options: JobOptions) -> KafkaSink:
    record = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(topic)
        .set_key_serialization_schema(RowFieldExtractorSchema(0))
        .set_value_serialization_schema(RowFieldExtractorSchema(1))
        .build()
    )
    builder = KafkaSink.builder()
    for name, value in config.kafka.flink_settings.items():
        builder.set_property(name, value)
    return (
        builder.set_bootstrap_servers(config.kafka.bootstrap_servers)
        .set_record_serializer(record)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(f"{joiner_name(config.kafka.topics.examples)}-{topic}")
        .set_property("transaction.timeout.ms", str(_TRANSACTION_TIMEOUT_MS))
        .set_property("max.request.size", str(RECORD_MAX_BYTES))
        .set_property("compression.type", "lz4")
        .build()
    )


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``flink run -py``."""
    parser = argparse.ArgumentParser(prog="joiner_job.py", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="rillet.toml")
    parser.add_argument("--bootstrap-servers", help="overrides [kafka] bootstrap_servers")
    parser.add_argument("--local-dir", help="for the disk tier; default: the temporary folder")
    parser.add_argument("--jar", type=Path, help="the Kafka connector, where the cluster does not have it in lib/")
    known = parser.parse_args(arguments)
    env = StreamExecutionEnvironment.get_execution_environment()
    if known.jar:
        # Not pipeline.jars: setting it would drop the jar that `flink run` itself adds.
        env.add_jars(known.jar.resolve().as_uri())
    config = load_config(known.config, bootstrap_servers=known.bootstrap_servers)
    options = JobOptions(
        local_dir=known.local_dir,
        topic_ids=ids_of_topics(config),
    )
    forget_progress(config)
    build(env, config, options)
    env.execute()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The joiner as a Flink job: two Kafka topics in, examples and dead letters out, exactly once.

Runs in Flink's mini-cluster (``rillet join``) and on a cluster:
``flink run -py jobs/joiner_job.py --config rillet.toml``. This is the only place that knows how PyFlink
has to be talked to; the join itself is ``joiner/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from rillet.connectors.start_positions import FORMS, StartAt
from rillet.connectors.topics import topic_ids
from rillet.jobs.config import RilletConfig, load_config
from rillet.joiner import JoinerRuns, Kept, KeptSettings, RequestRange, check_kept
from rillet.operators.backfill_function import BackfillFunction
from rillet.operators.conversion_function import KEY_RECORD, ConversionFunction
from rillet.operators.flink_config import joiner_group, joiner_name
from rillet.operators.job_settings import job_settings
from rillet.operators.joiner_function import BYTES, DEAD_LETTERS, KEY_VALUE, JoinFunction
from rillet.operators.key_groups import bucket_keys
from rillet.pipelines.left_state import check_left

if TYPE_CHECKING:
    from rillet.operators.flink_config import FlinkConfig
    from rillet.sources import Kind

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
    #: where a job without state begins to read; at the beginning without one
    start: StartAt | None = None
    #: of a backfill: joins these requests and no others
    requests: RequestRange | None = None


def settings(config: FlinkConfig, options: JobOptions) -> Configuration:
    """Flink settings that belong to the job, whichever cluster it runs on."""
    flink = Configuration()
    found = job_settings(config, idle_sources=options.idle_sources, restore_from=options.restore_from)
    for name, value in found.items():
        flink.set_string(name, value)
    return flink


def build(env: StreamExecutionEnvironment, config: RilletConfig, options: JobOptions) -> None:
    """Adds the joiner's pipeline to an environment."""
    join, topics = config.joiner, config.kafka.topics
    env.configure(settings(config.flink, options))
    tables = StreamTableEnvironment.create(env)
    raw: dict[Kind, str] = {"features": topics.features, "actions": topics.actions}
    for kind, topic in raw.items():
        tables.execute_sql(_source(config, topic, kind, options))
    specs, sources = config.load_specs(), config.sources
    queries = {kind: _records(topic, kind, join.buckets) for kind, topic in raw.items()}
    # Native topics go in together: no record of theirs passes through Python before it is keyed.
    native = " UNION ALL ".join(query for kind, query in queries.items() if kind not in sources.converted)
    streams = [tables.to_append_stream(tables.sql_query(native), KEY_RECORD)] if native else []
    refused = []
    for kind in sources.converted:
        lying = tables.to_append_stream(tables.sql_query(queries[kind]), KEY_RECORD)
        conversion = ConversionFunction(
            kind, specs.current, sources, buckets=join.buckets, max_ahead_ms=join.max_ahead_ms
        )
        stream = lying.process(conversion, KEY_RECORD).name(f"convert-{kind}").uid(f"convert-{kind}")
        streams.append(stream)
        refused.append(stream.get_side_output(DEAD_LETTERS))
    silence = None
    if "config.providers" not in config.kafka.flink:
        # Otherwise the tasks shall find the secrets where they run, which librdkafka cannot; none must be in the job.
        silence = partial(TopicSilence, config.kafka.connection, groups(config), config.flink.idle_ms)
    kind_of_join = JoinFunction if options.requests is None else partial(BackfillFunction, options.requests)
    function = kind_of_join(specs, join, config.flink, silence, options.local_dir)
    records = _union(streams)
    joined = _key_by_bucket(records).process(function, KEY_VALUE)
    # State of other settings cannot be gone on with: it is the state of another operator.
    joined.name(OPERATOR).uid(f"join-{KeptSettings.of(specs.current, join).operator_digest:016x}")
    joined.sink_to(_sink(config, topics.examples, options)).name("examples").uid("examples")
    letters = _union([joined.get_side_output(DEAD_LETTERS), *refused])
    letters.sink_to(_sink(config, topics.dead_letters, options)).name("dead letters").uid("dead-letters")
    _name_others(env, options.topic_ids)


def _name_others(env: StreamExecutionEnvironment, topic_ids: Mapping[Kind, str]) -> None:
    """Gives a uid to each operator that SQL and PyFlink have made: the state of one without hangs on its place in the graph.

    A topic's reader keeps its offsets under its own. It goes on at them whatever topic it is given then, so the topic's id is
    a part of the uid. The others keep nothing, and are numbered.
    """
    sinks = env._j_stream_execution_environment.getTransformations()
    every = {one.getId(): one for sink in sinks for one in sink.getTransitivePredecessors()}
    for number, (_, transformation) in enumerate(sorted(every.items())):
        if transformation.getClass().getSimpleName() == "SourceTransformation":
            table = transformation.getName().rpartition(".")[2]
            transformation.setUid("-".join(filter(None, ("read", table, topic_ids.get(table)))))
        elif transformation.getUid() is None:
            transformation.setUid(f"stateless-{number}")


def _union(streams: list[DataStream]) -> DataStream:
    return streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]


def operators(config: RilletConfig) -> list[str]:
    """Names of the operators that count records."""
    return [OPERATOR, *(f"convert-{kind}" for kind in config.sources.converted)]


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
    more = (
        client
        | {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": config.kafka.bootstrap_servers,
            "properties.isolation.level": "read_committed",
            "properties.group.id": groups(config)[topic],
            "key.format": "raw",
            "key.fields": "k",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
        }
        | (options.start or StartAt()).settings(table)
    )
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
    """(key of the bucket, record as :func:`rillet.operators.records.split_record` takes it).

    Text of one byte per character carries the bytes through SQL.
    """
    key = "COALESCE(DECODE(k, 'ISO-8859-1'), '')"
    ingest = "COALESCE(DECODE(headers['ingest_ms'], 'ISO-8859-1'), '')"
    return f"""
        SELECT
            ARRAY[{", ".join(map(str, bucket_keys(buckets)))}][MOD(MOD(HASH_CODE({key}), {buckets}) + {buckets}, {buckets}) + 1],
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
    """Keys (key, bytes) rows on the JVM; the process function then receives the bytes alone.

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
        .set_property("transaction.timeout.ms", str(config.flink.transaction_timeout_ms))
        .set_property("max.request.size", str(RECORD_MAX_BYTES))
        .set_property("compression.type", "lz4")
        .build()
    )


def parser() -> argparse.ArgumentParser:
    """Of the arguments of ``flink run -py``."""
    parser = argparse.ArgumentParser(prog="joiner_job.py", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="rillet.toml")
    parser.add_argument("--bootstrap-servers", help="overrides [kafka] bootstrap_servers")
    parser.add_argument("--local-dir", help="for the disk tier; default: the temporary folder")
    parser.add_argument(
        "--runs",
        type=Path,
        help="folder, seen by the whole cluster, in which each start has a numbered one for"
        " its checkpoints and goes on from the newest; without it Flink's own settings and --fromSavepoint hold",
    )
    parser.add_argument("--from", dest="start", type=StartAt.parse, help="where a first start begins: " + FORMS)
    parser.add_argument("--jar", type=Path, help="the Kafka connector, where the cluster does not have it in lib/")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``flink run -py``."""
    known = parser().parse_args(arguments)
    env = StreamExecutionEnvironment.get_execution_environment()
    if known.jar:
        # Not pipeline.jars: setting it would drop the jar that `flink run` itself adds.
        env.add_jars(known.jar.resolve().as_uri())
    config = load_config(known.config, bootstrap_servers=known.bootstrap_servers)
    options = JobOptions(local_dir=known.local_dir, topic_ids=ids_of_topics(config), start=known.start)
    if known.runs is not None:
        options = _begin_run(env, config, JoinerRuns(known.runs.resolve()), options)
    else:
        forget_progress(config)
    build(env, config, options)
    env.execute()


def _begin_run(
    env: StreamExecutionEnvironment, config: RilletConfig, runs: JoinerRuns, options: JobOptions
) -> JobOptions:
    """A numbered folder for what Flink keeps of this start, which goes on from the newest run before it, as ``rillet join``."""
    names = config.kafka.topics
    topics: dict[str, tuple[str, str]] = {kind: (getattr(names, kind), id_) for kind, id_ in options.topic_ids.items()}
    specs = config.load_specs()
    check_left(runs, config.kafka.connection, groups(config))
    kept = Kept(KeptSettings.of(specs.current, config.joiner), topics)
    check_kept(runs.newest, kept, specs, first_start=options.start is not None)
    snapshot = runs.newest.snapshot if runs.newest is not None else None
    # Before the folder is there: what the groups commit from now on is of the run that it is of.
    forget_progress(config)
    run = runs.begin(kept.dump(), config.flink.keep_savepoints)
    flink = Configuration()
    flink.set_string("execution.checkpointing.dir", run.checkpoint_dir.as_uri())
    env.configure(flink)
    print(f"run {run.folder.name} goes on from {snapshot or 'nothing: the topics are read anew'}")
    return replace(options, restore_from=None if snapshot is None else snapshot.as_uri())


if __name__ == "__main__":
    main(sys.argv[1:])

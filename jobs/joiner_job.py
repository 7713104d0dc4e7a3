"""The joiner as a Flink job: two Kafka topics in, examples and dead letters out, exactly once.

Runs in Flink's mini-cluster (``rillet join``) and on a cluster:
``flink run -py jobs/joiner_job.py --config rillet.toml``. This is the only place that knows how PyFlink
has to be talked to; the join itself is ``joiner/``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from rillet.connectors.lag import GroupLag
from rillet.connectors.silence import TopicSilence
from rillet.connectors.start_positions import FORMS, StartAt
from rillet.connectors.topics import topic_ids
from rillet.jobs.config import RilletConfig, load_config
from rillet.joiner import JoinerRuns, Kept, KeptSettings, Remedies, RequestRange, check_kept
from rillet.operators.backfill_function import BackfillFunction
from rillet.operators.conversion_function import KEY_RECORD, ConversionFunction
from rillet.operators.flink_config import joiner_group
from rillet.operators.graph import end_of_time, exactly_once_sink, key_by_bucket, name_others, union
from rillet.operators.job_settings import job_settings
from rillet.operators.joiner_function import DEAD_LETTERS, KEY_VALUE, JoinFunction
from rillet.operators.topic_sql import nothing_query, nothing_table, records_query, source_table
from rillet.pipelines.left_state import check_left

if TYPE_CHECKING:
    from rillet.operators.flink_config import FlinkConfig
    from rillet.sources import Kind

#: name of the operator that joins
OPERATOR = "join"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What differs from run to run."""

    #: folder of its runs, by which the job is told from others of a cluster
    runs: Path | None = None
    #: savepoint or checkpoint to go on from
    restore_from: str | None = None
    #: whether the job is stopped at ends that the topics have already
    bounded: bool = False
    #: whether partitions without records stop to hold the watermark back
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
    found = job_settings(
        config, runs=options.runs, idle_sources=options.idle_sources, restore_from=options.restore_from
    )
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
        tables.execute_sql(_source_table(config, topic, kind, options))
    specs, sources = config.load_specs(), config.sources
    queries = {kind: records_query(topic, kind, join.buckets) for kind, topic in raw.items()}
    # Native topics go in together: no record of theirs passes through Python before it is keyed.
    native = " UNION ALL ".join(query for kind, query in queries.items() if kind not in sources.converted)
    streams = [tables.to_append_stream(tables.sql_query(native), KEY_RECORD)] if native else []
    if options.idle_sources:
        tables.execute_sql(nothing_table("nothing"))
        streams.append(end_of_time(tables.to_append_stream(tables.sql_query(nothing_query("nothing")), KEY_RECORD)))
    refused = []
    for kind in sources.converted:
        lying = tables.to_append_stream(tables.sql_query(queries[kind]), KEY_RECORD)
        conversion = ConversionFunction(kind, specs, sources, buckets=join.buckets, max_ahead_ms=join.max_ahead_ms)
        stream = lying.process(conversion, KEY_RECORD).name(f"convert-{kind}").uid(f"convert-{kind}")
        streams.append(stream)
        refused.append(stream.get_side_output(DEAD_LETTERS))
    silence = None
    if "config.providers" not in config.kafka.flink:
        # Otherwise the tasks shall find the secrets where they run, which librdkafka cannot; none must be in the job.
        idle_ms = config.flink.idle_ms
        silence = partial(TopicSilence, config.kafka.connection, groups(config), idle_ms, bounded=options.bounded)
    kind_of_join = JoinFunction if options.requests is None else partial(BackfillFunction, options.requests)
    function = kind_of_join(specs, join, config.flink, silence, options.local_dir)
    records = union(streams)
    joined = key_by_bucket(records).process(function, KEY_VALUE)
    kept = KeptSettings.of(specs.current, join, config.flink.execution_mode)
    # State of other settings cannot be gone on with: it is the state of another operator.
    joined.name(OPERATOR).uid(f"join-{kept.operator_digest:016x}")
    sink = partial(exactly_once_sink, config.kafka, transaction_timeout_ms=config.flink.transaction_timeout_ms)
    joined.sink_to(sink(topics.examples)).name("examples").uid("examples")
    letters = union([joined.get_side_output(DEAD_LETTERS), *refused])
    letters.sink_to(sink(topics.dead_letters)).name("dead letters").uid("dead-letters")
    name_others(env, options.topic_ids)


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


def _source_table(config: RilletConfig, topic: str, table: Kind, options: JobOptions) -> str:
    flink = config.flink
    return source_table(
        table,
        config.kafka,
        topic,
        groups(config)[topic],
        options.start or StartAt(),
        lateness_ms=flink.lateness_ms,
        max_drift_ms=flink.max_drift_ms if options.aligned else 0,
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
    if known.start is not None:
        topics = {"features": config.kafka.topics.features, "actions": config.kafka.topics.actions}
        known.start.check(config.kafka.connection, topics, time.time_ns() // 1_000_000)
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
    kept = Kept(KeptSettings.of(specs.current, config.joiner, config.flink.execution_mode), topics)
    remedies = Remedies.of_cluster(runs.folder)
    check_kept(runs.newest, kept, specs, remedies, first_start=options.start is not None)
    snapshot = runs.newest.snapshot if runs.newest is not None else None
    # Before the folder is there: what the groups commit from now on is of the run that it is of.
    forget_progress(config)
    run = runs.begin(kept.dump(), config.flink.keep_savepoints)
    flink = Configuration()
    flink.set_string("execution.checkpointing.dir", run.checkpoint_dir.as_uri())
    env.configure(flink)
    print(f"run {run.folder.name} goes on from {snapshot or 'nothing: the topics are read anew'}")
    return replace(options, runs=runs.folder, restore_from=None if snapshot is None else snapshot.as_uri())


if __name__ == "__main__":
    main(sys.argv[1:])

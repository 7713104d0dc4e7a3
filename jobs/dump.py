"""``rillet dump``: the examples topic to Parquet files by hour, each row exactly once; until told to stop."""

from __future__ import annotations

import threading
import time

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for_example
from rillet.connectors.example_manifest import topic_source
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.topics import create_topics, topic_ends
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.pipelines.dump_loop import DumpLoop, DumpMetrics
from rillet.schemas import DeadLetter
from rillet.trainer import Positions


def run_dump(config: RilletConfig, *, until_latest: bool = False) -> int:
    """Dumps until SIGTERM or SIGINT, or until the present end of the examples topic.

    :raises ServiceError: another dump runs on this data_dir, or it cannot be written to.
    :raises BrokerUnavailableError: no broker answers at the start; later outages are waited out.
    :raises RilletError: see :meth:`rillet.pipelines.dump_loop.DumpLoop.run`.
    """
    end_at_once_on_signals()
    with hold(config.data_dir, "dump"):
        kafka = config.kafka
        create_topics(kafka.connection, kafka.topic_partitions_of("dump"), replication=kafka.replication)
        stop = threading.Event()
        call_on_signals(stop.set)
        loop = wire_dump(config, until_latest)
        health = HealthServer(
            config.health.dump_port, lambda: loop.ready, host=config.health.host, registry=loop.metrics.registry
        )
        try:
            health.start()
            loop.run(stop)
        finally:
            health.close()
    return 0


def wire_dump(config: RilletConfig, until_latest: bool) -> DumpLoop[DeadLetter]:
    """The dump of a configuration, on its broker and its storage; nothing is reached before it runs."""
    specs = config.load_specs()
    kafka, topics = config.kafka.connection, config.kafka.topics

    def source(positions: Positions) -> KafkaExampleSource:
        return KafkaExampleSource(kafka, topics.examples, positions, until_latest=until_latest, group="rillet-dump")

    return DumpLoop(
        ExampleWriter(config.dump_url, specs.current, topic_source(topics.examples), group_rows=config.dump.group_rows),
        specs,
        source=source,
        starts=lambda: {n: first for n, (first, _) in (topic_ends(kafka, topics.examples) or {}).items()},
        letters=DeadLetterProducer(kafka, topics.dead_letters),
        to_letter=lambda bad: letter_for_example(bad, topics.examples),
        metrics=DumpMetrics(),
        commit_interval_ms=round(config.dump.commit_interval_s * 1000),
        # An interval is measured, which a wall clock that is set cannot do.
        now_ms=lambda: time.monotonic_ns() // 1_000_000,
    )

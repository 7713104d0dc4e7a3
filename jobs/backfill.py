"""``rillet backfill``: the requests of a range of event time joined once more, into a topic of their own."""

from __future__ import annotations

import logging
from dataclasses import replace

from rillet.connectors.newest import newest_records
from rillet.connectors.start_positions import StartAt, ends_at
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold
from rillet.jobs.joiner_run import Bounds, holds_rows, prepare, run_to_end
from rillet.jobs.signals import end_at_once_on_signals
from rillet.joiner import JoinerError, JoinerRuns, RequestRange

log = logging.getLogger(__name__)


def run_backfill(config: RilletConfig, requests: RequestRange, examples: str, now_ms: int) -> int:
    """Joins the requests of a range of event time into another topic, beside a joiner that goes on.

    State, consumer groups and transactional ids are its own. It is over when the windows of the range are closed; one that
    was stopped before is gone on with by the same call.

    :param examples: the topic for the rows, without any yet; what cannot be used goes to ``EXAMPLES.dead_letters``.
    :param now_ms: wall clock.
    :raises JoinerError: windows of the range are open still, or its topic or folder is another join's; else as :func:`rillet.jobs.join.run_join`.
    """
    config = backfill_config(config, examples)
    spec = config.load_spec()
    until_ms = requests.read_until_ms(spec, config.joiner, config.flink.lateness_ms)
    if until_ms > now_ms:
        raise JoinerError(
            f"label windows of requests before --until close in {(until_ms - now_ms) / 3_600_000:.1f} h: what their actions will"
            " be is not known yet; name an earlier time"
        )
    runs = JoinerRuns(config.data_dir / "joiner" / "runs")
    if runs.newest is not None and runs.newest.drained:
        raise JoinerError(
            f"this backfill is done, its rows are on topic {examples}: for another one name another topic, or delete the"
            f" topic and {config.data_dir}"
        )
    if runs.newest is None and holds_rows(config):
        raise JoinerError(f"topic {examples} holds rows already: a backfill needs a topic of its own, name another one")
    kafka, topics = config.kafka.connection, [config.kafka.topics.features, config.kafka.topics.actions]
    start = StartAt(time_ms=requests.read_from_ms(spec, config.joiner))
    end_at_once_on_signals()
    with hold(config.data_dir, "join") as lock:
        prepare(config, lock)
        run_to_end(config, Bounds(start, lambda _: ends_at(kafka, topics, until_ms), drain=True, requests=requests))
    if newest_records(kafka, config.kafka.topics.dead_letters, 1)[0]:
        log.warning("some records could not be used: the reasons are on topic %s", config.kafka.topics.dead_letters)
    log.info("the backfill is done: its rows are on topic %s; %s can be deleted", examples, config.data_dir)
    return 0


def backfill_config(config: RilletConfig, examples: str) -> RilletConfig:
    """What a backfill changes of the configuration: whatever two joiners must not share.

    :raises JoinerError: the topic is one of the loop's.
    """
    try:
        topics = replace(config.kafka.topics, examples=examples, dead_letters=f"{examples}.dead_letters")
    except ValueError as error:
        raise JoinerError(f"--examples-topic: {error}") from None
    if examples in config.kafka.topic_partitions:
        raise JoinerError(f"--examples-topic: {examples} is a topic of the loop itself: name another one")
    return replace(
        config,
        data_dir=config.data_dir / "backfills" / examples,
        kafka=replace(config.kafka, topics=topics),
        # Windows that the drain closes have ended, and have to be told of.
        joiner=replace(config.joiner, negatives_at_end="emit"),
        health=replace(config.health, join_port=0),
    )

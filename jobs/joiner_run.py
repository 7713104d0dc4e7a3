"""One run of the joiner in Flink's mini-cluster, in this process, from its start to its savepoint."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector

from rillet.connectors.errors import TopicError
from rillet.connectors.flink_metrics import FlinkCounters, FlinkJob
from rillet.connectors.lag import Ends, GroupLag
from rillet.connectors.newest import newest_records
from rillet.connectors.service_info import announce_service
from rillet.connectors.start_positions import StartAt, cut_off
from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals
from rillet.jobs.toolchain import fetch_jars, python_environment
from rillet.joiner import Alarms, JoinerRun, JoinerRuns, Kept, KeptSettings, Remedies, RequestRange, check_kept
from rillet.joiner.metrics import GROUP
from rillet.operators.flink_log import flink_log
from rillet.operators.memory import TaskMemory
from rillet.operators.mini_cluster import mini_cluster, prepare_process, rest_url, stop_with_savepoint
from rillet.pipelines.bounded_read import BoundedRead
from rillet.pipelines.job_alarms import JobAlarms
from rillet.pipelines.job_watch import JobWatch, root_cause
from rillet.pipelines.joiner_watch import JoinerWatch, TopicsWatch
from rillet.pipelines.left_state import check_left

if TYPE_CHECKING:
    from pyflink.common import JobClient

log = logging.getLogger(__name__)

_POLL_S = 0.2
#: how often the counters are read, and whether a bounded run is at its end
_REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """From where to where a run reads.

    :param start: where it begins; None: where the last one has ended, or at the beginning.
    :param ends: tells the offsets at which it stops; None: at a signal.
    :param drain: closes every open window at these ends; in a run that ends so no source is idle. A topic that ends early
        holds back the other then, for the two are read side by side, and for ever.
    :param aligned: whether they are.
    :param requests: joins these alone.
    """

    start: StartAt | None = None
    ends: Callable[[GroupLag], Ends] | None = None
    drain: bool = False
    aligned: bool = True
    requests: RequestRange | None = None


def prepare(config: RilletConfig, lock: int) -> None:
    """What this process and Flink's Java process are given before the first run; once per process.

    :param lock: of data_dir, which the Java process holds too.
    :raises ServiceError: Flink's log folder cannot be written to.
    """
    folder = config.data_dir / "joiner" / "log"
    try:
        prepare_process(python_environment(), folder, config.flink, lock)
    except OSError as error:
        raise unwritable(folder, error) from error


def run_to_end(config: RilletConfig, bounds: Bounds) -> None:
    """A job, and where one topic ends long before the other one more."""
    if not _run(config, bounds):
        log.info("one topic ends long before the other: reading the rest of that in a run of its own")
        _run(config, replace(bounds, start=bounds.start if bounds.requests else None, aligned=False))


def _run(config: RilletConfig, bounds: Bounds) -> bool:
    """One job from its start to its savepoint.

    :returns: False where it has ended since one topic held back the other, with its windows open.
    """
    folder = config.data_dir / "joiner"
    folder.mkdir(parents=True, exist_ok=True)
    specs = config.load_specs()
    spec = specs.current
    runs = JoinerRuns(folder / "runs")
    kept = Kept(KeptSettings.of(spec, config.joiner, config.flink.execution_mode))
    remedies = Remedies()
    if bounds.requests is not None:
        kept = replace(kept, requests=(bounds.requests.from_ms, bounds.requests.until_ms))
        remedies = Remedies.of_backfill(config.data_dir)
    check_kept(runs.newest, kept, specs, remedies, first_start=bounds.start is not None and bounds.requests is None)
    create_topics(
        config.kafka.connection, config.kafka.topic_partitions_of("join"), replication=config.kafka.replication
    )
    _warn_of_shared_interpreter(config)
    stop = threading.Event()
    call_on_signals(stop.set)
    # What a joiner that was killed has left of its cache; nobody else uses this folder.
    for name in ("local", "flink"):
        shutil.rmtree(folder / name, ignore_errors=True)
    from rillet.jobs.joiner_job import JobOptions, build, forget_progress, groups, ids_of_topics, operators

    topics, topic_ids = config.kafka.topics, ids_of_topics(config)
    kept = replace(kept, topics={kind: (getattr(topics, kind), id_) for kind, id_ in topic_ids.items()})
    check_kept(runs.newest, kept, specs, remedies)
    check_left(runs, config.kafka.connection, groups(config))
    if bounds.start is not None:
        names: dict[str, str] = {kind: getattr(topics, kind) for kind in topic_ids}
        bounds.start.check(config.kafka.connection, names, time.time_ns() // 1_000_000)
    if bounds.ends is not None:
        # Its end is noticed at a checkpoint.
        flink = replace(config.flink, checkpoint_interval_ms=min(config.flink.checkpoint_interval_ms, 5_000))
        config = replace(config, flink=flink)
    newest = runs.newest
    snapshot, complete_ms = (newest.snapshot, newest.interrupted_ms) if newest is not None else (None, None)
    if snapshot is not None:
        log.info("going on from %s", snapshot)
    else:
        _warn_of_other_rows(config)
        _warn_of_deleted_records(config, bounds)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    announce_service(registry, model=config.model.name, spec_hash=spec.hash)
    #: whether the job is, once there is one
    ready: list[Callable[[], bool]] = []
    health = HealthServer(
        config.health.join_port, lambda: any(is_so() for is_so in ready), host=config.health.host, registry=registry
    )
    # Before anything is written: a port that is taken is mostly that of another joiner.
    with health:
        # Before the folder is there: what the groups commit from now on is of the run that it is of.
        forget_progress(config)
        try:
            run = runs.begin(kept.dump(), config.flink.keep_savepoints)
        except OSError as error:
            raise unwritable(folder, error) from error
        memory = TaskMemory.of(
            config.joiner,
            config.flink,
            subtasks=config.flink.parallelism,
            converted_topics=len(config.sources.converted),
        )
        log.info("memory of Flink's process: %s", memory)
        env = mini_cluster(run.checkpoint_dir, memory, folder / "flink")
        env.add_jars(fetch_jars().connector.as_uri())
        options = JobOptions(
            restore_from=snapshot.as_uri() if snapshot is not None else None,
            bounded=bounds.ends is not None,
            # In a run that ends with a drain no source is idle.
            idle_sources=not bounds.drain,
            aligned=bounds.aligned,
            local_dir=str(folder / "local"),
            topic_ids=topic_ids,
            start=bounds.start,
            requests=bounds.requests,
        )
        build(env, config, options)
        with GroupLag(config.kafka.connection, groups(config)) as lag:
            bounded = BoundedRead(lag, bounds.ends) if bounds.ends is not None else None
            client = env.execute_async("rillet joiner")
            watch = JobWatch(
                client, run, config.flink.checkpoint_interval_ms, flink_log(config.data_dir / "joiner" / "log")
            )
            job = rest_url(client), str(client.get_job_id())
            joiner = JoinerWatch(
                FlinkCounters(*job, operators(config), GROUP),
                Alarms(spec, config.joiner, time.monotonic),
                FlinkJob(
                    *job,
                    transaction_timeout_ms=config.flink.transaction_timeout_ms,
                    longest_transaction_ms=config.flink.longest_transaction_ms,
                    restored_ms=complete_ms,
                ),
                JobAlarms(config.flink.tolerated_failed_checkpoints, config.flink.max_restarts),
                topics=(config.kafka.topics.features, config.kafka.topics.actions),
            )
            registry.register(joiner)
            topics_watch = TopicsWatch(lag.answers)
            ready.append(lambda: watch.ready() and topics_watch.reachable)
            log.info("joining %s and %s into %s", topics.features, topics.actions, topics.examples)
            due_s = time.monotonic() + _REFRESH_S
            while not watch.finished(_POLL_S) and not stop.is_set():
                watch.tell()
                if time.monotonic() < due_s:
                    continue
                due_s = time.monotonic() + _REFRESH_S
                if not watch.running():
                    joiner.refresh_job()
                    continue
                joiner.refresh()
                topics_watch.refresh()
                if bounded is not None:
                    bounded.refresh()
                    if bounded.reached:
                        log.info("read up to the end that was set at the start")
                        break
                    if bounds.drain and bounds.aligned and bounded.held_back:
                        break
            if not watch.finished(0):
                _stop(client, watch, run, drain=bounds.drain and bounded is not None and bounded.reached)
    watch.raise_failure()
    if bounded is None or bounded.reached:
        return True
    if stop.is_set() or not (bounds.drain and bounds.aligned):
        raise ServiceError(
            "stopped before the end that was set at the start: what was read is kept, with its open windows; run the"
            " same again to go on"
        )
    return False


def _stop(client: JobClient, watch: JobWatch, run: JoinerRun, *, drain: bool) -> None:
    """Ends the job with a savepoint; one that has not begun yet has read nothing, and is cancelled.

    :raises ServiceError: no savepoint could be taken, for instance because the job was restarting.
    """
    from py4j.protocol import Py4JJavaError

    if not watch.running():
        log.info("stopped before it began to read")
        client._j_job_client.cancel().get()
        watch.cancelled = True
        return
    log.info("stopping: %s", "closing every window" if drain else "keeping open windows in a savepoint")
    try:
        savepoint = stop_with_savepoint(client, run.savepoint_dir(drained=drain), drain=drain)
    except Py4JJavaError as error:
        raise ServiceError(
            f"the job did not end with a savepoint: {root_cause(error)}; the next start goes on from {run.snapshot}"
        ) from error
    log.info("stopped with savepoint %s", savepoint)


def _warn_of_shared_interpreter(config: RilletConfig) -> None:
    """Of a parallelism that makes nothing faster here."""
    flink = config.flink
    if flink.parallelism > 1 and flink.execution_mode == "thread":
        log.warning(
            "[flink] parallelism is %d, but in thread mode all subtasks of this process share one Python interpreter, and are"
            ' together no faster than one. Set [flink] execution_mode to "process", or run the job on a cluster with one'
            " slot per TaskManager",
            flink.parallelism,
        )


def _warn_of_other_rows(config: RilletConfig) -> None:
    """Of rows on the examples topic that a joiner which begins anew cannot know: the accident of two data_dirs."""
    if holds_rows(config):
        log.warning(
            "topic %s holds rows already, and data_dir %s has no state of a joiner that wrote them: all features and"
            " actions are joined from their beginning, into rows that may be there twice. Does another joiner write to this"
            " topic? Then stop one of them, or give this one topics of its own in [kafka.topics]",
            config.kafka.topics.examples,
            config.data_dir,
        )


def _warn_of_deleted_records(config: RilletConfig, bounds: Bounds) -> None:
    """Of records that a reading from a time on does not find any more."""
    if bounds.start is None or bounds.start.time_ms is None:
        return
    topics = [config.kafka.topics.features, config.kafka.topics.actions]
    for (topic, partition), first in cut_off(config.kafka.connection, topics, bounds.start.time_ms).items():
        log.warning(
            "partition %d of topic %s begins at offset %d, and what it held before is deleted: records of the time from which on"
            " it is read may have been among it, and rows of theirs are missing then",
            partition,
            topic,
            first,
        )


def holds_rows(config: RilletConfig) -> bool:
    """Whether there are rows on the examples topic; offsets alone say nothing, transactions that were aborted have some too."""
    try:
        records, _ = newest_records(config.kafka.connection, config.kafka.topics.examples, 1)
    except TopicError:  # there is none yet
        return False
    return bool(records)

"""``rillet join``: the joiner job in Flink's mini-cluster, in this process, until told to stop.

A restart goes on from the savepoint of the last clean stop, or from the newest checkpoint after a crash.
On a cluster the same job is submitted with ``flink run -py jobs/joiner_job.py`` instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector

from rillet.connectors.flink_metrics import FlinkCounters, FlinkJob
from rillet.connectors.lag import Ends, GroupLag
from rillet.connectors.service_info import announce_service
from rillet.connectors.start_positions import StartAt, ends_at
from rillet.connectors.topics import create_topics, topic_ends
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold, unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.jobs.toolchain import fetch_jars, python_environment
from rillet.joiner import (
    Alarms,
    JoinerError,
    JoinerRun,
    JoinerRuns,
    Kept,
    KeptSettings,
    RequestRange,
    check_kept,
)
from rillet.joiner.metrics import GROUP
from rillet.operators.flink_log import flink_log, log_environment
from rillet.operators.memory import TaskMemory
from rillet.pipelines.bounded_read import BoundedRead
from rillet.pipelines.job_alarms import JobAlarms
from rillet.pipelines.job_watch import JobWatch, root_cause
from rillet.pipelines.joiner_watch import JoinerWatch, TopicsWatch

if TYPE_CHECKING:
    from pyflink.common import JobClient
    from pyflink.datastream import StreamExecutionEnvironment

log = logging.getLogger(__name__)

_POLL_S = 0.2
#: how often the counters are read, and whether a bounded run is at its end
_REFRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class _Bounds:
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


def run_join(
    config: RilletConfig, *, until_latest: bool = False, drain: bool = False, start: StartAt | None = None
) -> int:
    """Runs the joiner until SIGTERM or SIGINT, or until it has read up to the present ends of the topics.

    Either way it ends with a savepoint, from which the next start goes on.

    :param until_latest: stop at the ends that the topics have now.
    :param drain: at the end close every open window, instead of keeping them in the savepoint.
    :param start: where a first start begins to read; at the beginning of the topics without one.
    :raises BrokerUnavailableError: no broker answers.
    :raises JoinerError: windows are open that were opened with other settings, or settings cannot work; or there is
        state, and so no first start.
    :raises ServiceError: another joiner runs on the same data_dir; or the job failed, with Flink's root cause.
    """
    # Until there is a job, there is nothing to keep.
    end_at_once_on_signals()
    with hold(config.data_dir, "join") as lock:
        _prepare_process(config, lock)
        at_ends = _Bounds(start, lambda lag: lag.ends(), drain)
        _run_to_end(config, at_ends if until_latest else _Bounds(start))
        if drain and not until_latest:
            # Sources that have nothing to read may be idle, and drop what a drain tells them; and what lies on the topics
            # may belong to windows that a drain closes.
            log.info("closing every window in a run of its own, which reads up to the ends of the topics")
            _run_to_end(config, replace(at_ends, start=None))
    return 0


def run_backfill(config: RilletConfig, requests: RequestRange, examples: str, now_ms: int) -> int:
    """Joins the requests of a range of event time into another topic, beside a joiner that goes on.

    State, consumer groups and transactional ids are its own. It is over when the windows of the range are closed; one that
    was stopped before is gone on with by the same call.

    :param examples: the topic for the rows, without any yet; what cannot be used goes to ``EXAMPLES.dead_letters``.
    :param now_ms: wall clock.
    :raises JoinerError: windows of the range are open still, or its topic or folder is another join's; else as :func:`run_join`.
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
    if runs.newest is None and _holds_rows(config):
        raise JoinerError(f"topic {examples} holds rows already: a backfill needs a topic of its own, name another one")
    kafka, topics = config.kafka.connection, [config.kafka.topics.features, config.kafka.topics.actions]
    start = StartAt(time_ms=requests.read_from_ms(spec, config.joiner))
    end_at_once_on_signals()
    with hold(config.data_dir, "join") as lock:
        _prepare_process(config, lock)
        _run_to_end(config, _Bounds(start, lambda _: ends_at(kafka, topics, until_ms), drain=True, requests=requests))
    if any(end > first for first, end in (topic_ends(kafka, config.kafka.topics.dead_letters) or {}).values()):
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


def _run_to_end(config: RilletConfig, bounds: _Bounds) -> None:
    """A job, and where one topic ends long before the other one more."""
    if not _run(config, bounds):
        log.info("one topic ends long before the other: reading the rest of that in a run of its own")
        _run(config, replace(bounds, start=bounds.start if bounds.requests else None, aligned=False))


def _run(config: RilletConfig, bounds: _Bounds) -> bool:
    """One job from its start to its savepoint.

    :returns: False where it has ended since one topic held back the other, with its windows open.
    """
    folder = config.data_dir / "joiner"
    folder.mkdir(parents=True, exist_ok=True)
    specs = config.load_specs()
    spec = specs.current
    runs = JoinerRuns(folder / "runs")
    kept = Kept(KeptSettings.of(spec, config.joiner))
    if bounds.requests is not None:
        kept = replace(kept, requests=(bounds.requests.from_ms, bounds.requests.until_ms))
    check_kept(runs.newest, kept, specs, first_start=bounds.start is not None and bounds.requests is None)
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
    check_kept(runs.newest, kept, specs)
    if bounds.start is not None:
        bounds.start.check(config.kafka.connection, {kind: getattr(topics, kind) for kind in topic_ids})
    if bounds.ends is not None:
        # Its end is noticed at a checkpoint.
        flink = replace(config.flink, checkpoint_interval_ms=min(config.flink.checkpoint_interval_ms, 5_000))
        config = replace(config, flink=flink)
    snapshot = runs.newest.snapshot if runs.newest is not None else None
    if snapshot is not None:
        log.info("going on from %s", snapshot)
    else:
        _warn_of_other_rows(config)
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
    env = _mini_cluster(run, memory, str(folder / "flink"))
    env.add_jars(fetch_jars().connector.as_uri())
    options = JobOptions(
        restore_from=snapshot.as_uri() if snapshot is not None else None,
        # In a run that ends with a drain no source is idle.
        idle_sources=not bounds.drain,
        aligned=bounds.aligned,
        local_dir=str(folder / "local"),
        topic_ids=topic_ids,
        start=bounds.start,
        requests=bounds.requests,
    )
    build(env, config, options)
    forget_progress(config)
    with GroupLag(config.kafka.connection, groups(config)) as lag:
        bounded = BoundedRead(lag, bounds.ends) if bounds.ends is not None else None
        client = env.execute_async("rillet joiner")
        watch = JobWatch(
            client, run, config.flink.checkpoint_interval_ms, flink_log(config.data_dir / "joiner" / "log")
        )
        job = _rest_url(client), str(client.get_job_id())
        joiner = JoinerWatch(
            FlinkCounters(*job, operators(config), GROUP),
            Alarms(spec, config.joiner, time.monotonic),
            FlinkJob(*job),
            JobAlarms(config.flink.tolerated_failed_checkpoints, config.flink.max_restarts),
        )
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        announce_service(registry, model=config.model.name, spec_hash=spec.hash)
        registry.register(joiner)
        topics_watch = TopicsWatch(lag.answers)
        health = HealthServer(
            config.health.join_port,
            lambda: watch.ready() and topics_watch.reachable,
            host=config.health.host,
            registry=registry,
        )
        try:
            health.start()
            log.info("joining %s and %s into %s", topics.features, topics.actions, topics.examples)
            due_s = time.monotonic() + _REFRESH_S
            while not watch.finished(_POLL_S) and not stop.is_set():
                watch.tell()
                if time.monotonic() < due_s or not watch.running():
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
                due_s = time.monotonic() + _REFRESH_S
            if not watch.finished(0):
                _stop(client, watch, run, drain=bounds.drain and bounded is not None and bounded.reached)
        finally:
            health.close()
    watch.raise_failure()
    if bounded is None or bounded.reached:
        return True
    if stop.is_set() or not (bounds.drain and bounds.aligned):
        raise ServiceError(
            "stopped before the end that was set at the start: what was read is kept, with its open windows; run the"
            " same again to go on"
        )
    return False


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
    if _holds_rows(config):
        log.warning(
            "topic %s holds rows already, and data_dir %s has no state of a joiner that wrote them: all features and"
            " actions are joined from their beginning, into rows that may be there twice. Does another joiner write to this"
            " topic? Then stop one of them, or give this one topics of its own in [kafka.topics]",
            config.kafka.topics.examples,
            config.data_dir,
        )


def _holds_rows(config: RilletConfig) -> bool:
    ends = topic_ends(config.kafka.connection, config.kafka.topics.examples) or {}
    return any(end > first for first, end in ends.values())


def _prepare_process(config: RilletConfig, lock: int) -> None:
    """Settings that PyFlink reads from the environment of its Java process and of its workers."""
    os.environ.update(python_environment())
    folder = config.data_dir / "joiner" / "log"
    try:
        os.environ.update(log_environment(folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    os.environ.setdefault("JVM_ARGS", f"-Xmx{config.flink.heap_bytes >> 20}m -XX:+UseSerialGC")
    # Beam, which comes with PyFlink, tells of each of its parts that is not installed and that nobody needs here.
    for library in ("apache_beam", "pyflink"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _start_java_apart(lock)
    if config.flink.execution_mode == "process":
        # By default all workers of a mini-cluster would share the client's interpreter.
        os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 PyFlink spells it so


def _start_java_apart(lock: int) -> None:
    """Has Flink's Java process started in a session of its own.

    A signal to the whole process group, as of Ctrl-C, would end it before a savepoint is taken. It still ends with
    this process, whose end of a pipe it watches, but seconds later where this one was killed: until then it may complete
    a checkpoint, and has the lock.
    """
    from pyflink import pyflink_gateway_server

    pyflink_gateway_server.Popen = partial(subprocess.Popen, start_new_session=True, pass_fds=(lock,))


def _mini_cluster(run: JoinerRun, memory: TaskMemory, work_dir: str) -> StreamExecutionEnvironment:
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment

    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("rest.bind-address", "127.0.0.1")
    flink.set_string("metrics.fetcher.update-interval", "1 s")
    flink.set_string("execution.checkpointing.dir", run.checkpoint_dir.as_uri())
    # What a Flink that was killed leaves there is deleted by the next start, unlike in the system's temporary folder.
    Path(work_dir).mkdir(exist_ok=True)
    flink.set_string("io.tmp.dirs", work_dir)
    for name, size in memory.settings().items():
        if name != "taskmanager.memory.process.size":  # one process for all of Flink, its heap is set
            flink.set_string(name, size)
    return StreamExecutionEnvironment.get_execution_environment(flink)


def _stop(client: JobClient, watch: JobWatch, run: JoinerRun, *, drain: bool) -> None:
    """Ends the job with a savepoint; one that has not begun yet has read nothing, and is cancelled.

    ``JobClient.stop_with_savepoint`` should do it, but in PyFlink 2.3 it calls a Java method that is gone.

    :raises ServiceError: no savepoint could be taken, for instance because the job was restarting.
    """
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    if not watch.running():
        log.info("stopped before it began to read")
        client._j_job_client.cancel().get()
        watch.cancelled = True
        return
    log.info("stopping: %s", "closing every window" if drain else "keeping open windows in a savepoint")
    target = run.savepoint_dir(drained=drain).as_uri()
    form = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
    try:
        savepoint = client._j_job_client.stopWithSavepoint(drain, target, form).get()
    except Py4JJavaError as error:
        raise ServiceError(
            f"the job did not end with a savepoint: {root_cause(error)}; the next start goes on from {run.snapshot}"
        ) from error
    log.info("stopped with savepoint %s", savepoint)


def _rest_url(client: JobClient) -> str:
    """Address of the mini-cluster's REST interface, which Flink tells nobody but the cluster's owner."""
    job_client = client._j_job_client
    cluster = job_client.getClass().getDeclaredField("miniCluster")
    cluster.setAccessible(True)
    return str(cluster.get(job_client).getRestAddress().get().toString())

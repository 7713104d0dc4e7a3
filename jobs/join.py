"""``rillet join``: the joiner job in Flink's mini-cluster, in this process, until told to stop.

A restart goes on from the savepoint of the last clean stop, or from the newest checkpoint after a crash.
On a cluster the same job is submitted with ``flink run -py jobs/joiner_job.py`` instead.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector

from rillet.connectors.flink_metrics import FlinkCounters
from rillet.connectors.lag import GroupLag
from rillet.connectors.service_info import announce_service
from rillet.connectors.topics import create_topics, topic_ends
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold, unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.jobs.toolchain import fetch_jars, python_environment
from rillet.joiner import Alarms, JoinerRun, JoinerRuns, Kept, KeptSettings, check_kept
from rillet.joiner.metrics import GROUP
from rillet.operators.flink_log import flink_log, log_environment
from rillet.pipelines.bounded_read import BoundedRead
from rillet.pipelines.joiner_watch import JoinerWatch, TopicsWatch

if TYPE_CHECKING:
    from pyflink.common import JobClient
    from pyflink.datastream import StreamExecutionEnvironment

log = logging.getLogger(__name__)

_POLL_S = 0.2
#: how often the counters are read, and whether a bounded run is at its end
_REFRESH_S = 2.0
#: without a checkpoint, until the joiner is no longer ready; or four intervals, if that is more
_PATIENCE_S = 10.0
#: the same for the first checkpoint of a start
_START_PATIENCE_S = 60.0
#: the mini-cluster's JVM holds Flink, its network buffers and managed memory
_HEAP = "1200m"


def run_join(config: RilletConfig, *, until_latest: bool = False, drain: bool = False) -> int:
    """Runs the joiner until SIGTERM or SIGINT, or until it has read up to the present ends of the topics.

    Either way it ends with a savepoint, from which the next start goes on.

    :param until_latest: stop at the ends that the topics have now.
    :param drain: at the end close every open window, instead of keeping them in the savepoint.
    :raises BrokerUnavailableError: no broker answers.
    :raises JoinerError: windows are open that were opened with other settings, or settings cannot work.
    :raises ServiceError: another joiner runs on the same data_dir; or the job failed, with Flink's root cause.
    """
    # Until there is a job, there is nothing to keep.
    end_at_once_on_signals()
    with hold(config.data_dir, "join") as lock:
        _prepare_process(config, lock)
        done = _run(config, until_latest=until_latest, drain=until_latest and drain)
        if drain and not until_latest:
            # Sources that have nothing to read may be idle, and drop what a drain tells them; and what lies on the topics
            # may belong to windows that a drain closes.
            log.info("closing every window in a run of its own, which reads up to the ends of the topics")
            done = _run(config, until_latest=True, drain=True)
        if not done:
            log.info("one topic ends long before the other: reading the rest of that in a run of its own")
            _run(config, until_latest=True, drain=True, aligned=False)
    return 0


def _run(config: RilletConfig, *, until_latest: bool, drain: bool, aligned: bool = True) -> bool:
    """One job from its start to its savepoint.

    :param drain: only of one that ends at the ends of the topics: in it no source is idle. A topic that ends early holds
        back the other then, for the two are read side by side, and for ever.
    :param aligned: whether they are.
    :returns: False where it has ended for that reason, with its windows open.
    """
    folder = config.data_dir / "joiner"
    folder.mkdir(parents=True, exist_ok=True)
    spec = config.load_spec()
    runs = JoinerRuns(folder / "runs")
    kept = Kept(KeptSettings.of(spec, config.joiner))
    check_kept(runs.newest, kept)
    create_topics(
        config.kafka.connection, config.kafka.topic_partitions_of("join"), replication=config.kafka.replication
    )
    stop = threading.Event()
    call_on_signals(stop.set)
    # What a joiner that was killed has left of its cache; nobody else uses this folder.
    shutil.rmtree(folder / "local", ignore_errors=True)
    from rillet.jobs.joiner_job import JobOptions, build, forget_progress, groups, ids_of_topics, operators

    topics, topic_ids = config.kafka.topics, ids_of_topics(config)
    kept = replace(kept, topics={kind: (getattr(topics, kind), id_) for kind, id_ in topic_ids.items()})
    check_kept(runs.newest, kept)
    if until_latest:
        # Its end is noticed at a checkpoint.
        flink = replace(config.flink, checkpoint_interval_ms=min(config.flink.checkpoint_interval_ms, 5_000))
        config = replace(config, flink=flink)
    snapshot = runs.newest.snapshot if runs.newest is not None else None
    if snapshot is not None:
        log.info("going on from %s", snapshot)
    else:
        _warn_of_other_rows(config)
    try:
        run = runs.begin(kept.dump())
    except OSError as error:
        raise unwritable(folder, error) from error
    env = _mini_cluster(run)
    env.add_jars(fetch_jars().connector.as_uri())
    options = JobOptions(
        restore_from=snapshot.as_uri() if snapshot is not None else None,
        idle_sources=not drain,
        aligned=aligned,
        local_dir=str(folder / "local"),
        topic_ids=topic_ids,
    )
    build(env, config, options)
    forget_progress(config)
    with GroupLag(config.kafka.connection, groups(config)) as lag:
        bounded = BoundedRead(lag) if until_latest else None
        client = env.execute_async("rillet joiner")
        watch = _JobWatch(client, run, config.flink.checkpoint_interval_ms, flink_log(_log_folder(config)))
        counters = FlinkCounters(_rest_url(client), str(client.get_job_id()), operators(config), GROUP)
        joiner = JoinerWatch(counters, Alarms(spec, config.joiner, time.monotonic))
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
                        log.info("read up to the ends that the topics had at the start")
                        break
                    if drain and aligned and bounded.held_back:
                        break
                due_s = time.monotonic() + _REFRESH_S
            if not watch.finished(0):
                _stop(client, watch, run, drain=drain and bounded is not None and bounded.reached)
        finally:
            health.close()
    watch.raise_failure()
    if bounded is None or bounded.reached:
        return True
    if stop.is_set() or not (drain and aligned):
        raise ServiceError(
            "stopped before the ends that the topics had at the start: what was read is kept, with its open windows; run the"
            " same again to go on"
        )
    return False


def _warn_of_other_rows(config: RilletConfig) -> None:
    """Of rows on the examples topic that a joiner which begins anew cannot know: the accident of two data_dirs."""
    topic = config.kafka.topics.examples
    ends = topic_ends(config.kafka.connection, topic) or {}
    if any(end > first for first, end in ends.values()):
        log.warning(
            "topic %s holds rows already, and data_dir %s has no state of a joiner that wrote them: all features and"
            " actions are joined from their beginning, into rows that may be there twice. Does another joiner write to this"
            " topic? Then stop one of them, or give this one topics of its own in [kafka.topics]",
            topic,
            config.data_dir,
        )


def _log_folder(config: RilletConfig) -> Path:
    return config.data_dir / "joiner" / "log"


def _prepare_process(config: RilletConfig, lock: int) -> None:
    """Settings that PyFlink reads from the environment of its Java process and of its workers."""
    os.environ.update(python_environment())
    folder = _log_folder(config)
    try:
        os.environ.update(log_environment(folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    os.environ.setdefault("JVM_ARGS", f"-Xmx{_HEAP} -XX:+UseSerialGC")
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


def _mini_cluster(run: JoinerRun) -> StreamExecutionEnvironment:
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment

    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("rest.bind-address", "127.0.0.1")
    flink.set_string("metrics.fetcher.update-interval", "1 s")
    flink.set_string("execution.checkpointing.dir", run.checkpoint_dir.as_uri())
    flink.set_string("taskmanager.memory.managed.size", "256m")
    flink.set_string("taskmanager.memory.network.min", "64m")
    flink.set_string("taskmanager.memory.network.max", "64m")
    return StreamExecutionEnvironment.get_execution_environment(flink)


def _stop(client: JobClient, watch: _JobWatch, run: JoinerRun, *, drain: bool) -> None:
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


class _JobWatch:
    """Asks a job's state without blocking signals, and explains a failure in one line."""

    def __init__(self, client: JobClient, run: JoinerRun, interval_ms: int, flink_log: Path) -> None:
        """
        :param interval_ms: between two checkpoints.
        :param flink_log: Flink's own.
        """
        self._run = run
        self._flink_log = flink_log
        self._patience_s = max(_PATIENCE_S, 4 * interval_ms / 1_000)
        #: the newest complete checkpoint, and when it was first seen
        self._newest: tuple[Path, float] | None = None
        self._told_ready: bool | None = None
        #: when it is told that the first checkpoint is not there yet; infinite once it was told
        self._first_due_s = time.monotonic() + max(_START_PATIENCE_S, self._patience_s)
        #: ended on purpose, which Flink tells as a failure
        self.cancelled = False
        self._result = client.get_job_execution_result()

    def running(self) -> bool:
        """Whether the job's tasks run. Flink calls a job running before they do, so: whether one checkpoint is there."""
        return bool(self._run.checkpoints) and not self._result.done()

    def ready(self) -> bool:
        """Whether checkpoints are completed: the broker takes what is written. Asked now and then, from any thread."""
        now, newest, found = time.monotonic(), self._newest, self._run.checkpoints
        if found and (newest is None or found[-1] != newest[0]):
            self._newest = newest = found[-1], now
        return newest is not None and now - newest[1] <= self._patience_s and not self._result.done()

    def tell(self) -> None:
        """Logs when checkpoints do not begin or stop to be completed, and when they go on."""
        ready, before = self.ready(), self._told_ready
        if before is None and not ready and time.monotonic() >= self._first_due_s and not self._result.done():
            self._first_due_s = math.inf
            log.warning(
                "no checkpoint has been completed since the start, so no row goes out; what Flink does is in %s",
                self._flink_log,
            )
        if ready == before or (before is None and not ready):
            return
        self._told_ready = ready
        if not ready and not self._result.done():
            log.warning(
                "no checkpoint has been completed for %.0f s, so no row goes out: is the broker there?",
                self._patience_s,
            )
        elif before is not None:
            log.info("checkpoints are completed again")

    def finished(self, wait_s: float) -> bool:
        """Whether the job has ended, after at most ``wait_s``."""
        if not self._result.done():
            threading.Event().wait(wait_s)
        return bool(self._result.done())

    def raise_failure(self) -> None:
        """Raises when the job ended by failing."""
        try:
            self._result.result()
        except Exception as error:
            if self.cancelled:
                return
            raise ServiceError(f"the joiner job failed: {root_cause(error)}") from error


def root_cause(error: BaseException) -> str:
    """The innermost cause in a Java stack trace, or the error's own first line."""
    text: str = str(error)
    java: Any = getattr(error, "java_exception", None)
    if java is not None:
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.toString())
    causes = [line for line in text.splitlines() if line.startswith("Caused by: ")]
    return causes[-1].removeprefix("Caused by: ") if causes else text.strip().splitlines()[0]

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
from rillet.jobs.data_lock import hold
from rillet.jobs.errors import ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.jobs.toolchain import fetch_jars, python_environment
from rillet.joiner import Alarms, KeptSettings, check_kept, newest_snapshot, note_kept
from rillet.joiner.metrics import GROUP
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
    with hold(config.data_dir, "join"):
        return _run(config, until_latest=until_latest, drain=drain)


def _run(config: RilletConfig, *, until_latest: bool, drain: bool) -> int:
    folder = config.data_dir / "joiner"
    folder.mkdir(parents=True, exist_ok=True)
    spec = config.load_spec()
    settings = KeptSettings.of(spec, config.joiner)
    check_kept(folder, settings)
    create_topics(
        config.kafka.connection, config.kafka.topic_partitions_of("join"), replication=config.kafka.replication
    )
    stop = threading.Event()
    call_on_signals(stop.set)
    # What a joiner that was killed has left of its cache; nobody else uses this folder.
    shutil.rmtree(folder / "local", ignore_errors=True)
    _prepare_process(config)
    from rillet.jobs.joiner_job import JobOptions, build, forget_progress, groups, operators

    if until_latest:
        # Its end is noticed at a checkpoint.
        flink = replace(config.flink, checkpoint_interval_ms=min(config.flink.checkpoint_interval_ms, 5_000))
        config = replace(config, flink=flink)
    restore_from = newest_snapshot(folder)
    if restore_from:
        log.info("going on from %s", restore_from)
    else:
        _warn_of_other_rows(config)
    env = _mini_cluster(folder)
    env.add_jars(fetch_jars().connector.as_uri())
    drains_at_ends = until_latest and drain
    options = JobOptions(restore_from=restore_from, idle_sources=not drains_at_ends, local_dir=str(folder / "local"))
    build(env, config, options)
    forget_progress(config)
    with GroupLag(config.kafka.connection, groups(config)) as lag:
        ends = lag.ends() if until_latest else None
        again = False
        client = env.execute_async("rillet joiner")
        note = partial(note_kept, folder, settings, job=str(client.get_job_id()))
        # Until there is a checkpoint under these settings, a start may go back to the ones before.
        watch = _JobWatch(
            client, folder / "checkpoints", config.flink.checkpoint_interval_ms, partial(note, drained=False)
        )
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
            topics = config.kafka.topics
            log.info("joining %s and %s into %s", topics.features, topics.actions, topics.examples)
            due_s = time.monotonic() + _REFRESH_S
            while not watch.finished(_POLL_S) and not stop.is_set():
                watch.tell()
                if time.monotonic() < due_s or not watch.running():
                    continue
                joiner.refresh()
                topics_watch.refresh()
                if ends is not None and lag.has_reached(ends):
                    log.info("read up to the ends that the topics had at the start")
                    break
                due_s = time.monotonic() + _REFRESH_S
            if not watch.finished(0):
                # Sources that have nothing to read may be idle, and drop what a drain tells them.
                again = drain and not drains_at_ends and _all_is_read(lag)
                _stop(client, watch, folder, drain=drain and not again)
                if drain and not again:
                    note(drained=True)
        finally:
            watch.running()  # notes a checkpoint of the last moment
            health.close()
    watch.raise_failure()
    if again:
        log.info("closing every window in a run of its own, since all is read")
        return _run(config, until_latest=True, drain=True)
    return 0


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


def _all_is_read(lag: GroupLag) -> bool:
    ends = lag.ends()
    # Twice: what brings no record is told apart from records only where the groups do not move.
    return lag.has_reached(ends) or lag.has_reached(ends)


def _prepare_process(config: RilletConfig) -> None:
    """Settings that PyFlink reads from the environment of its Java process and of its workers."""
    os.environ.update(python_environment())
    os.environ.setdefault("JVM_ARGS", f"-Xmx{_HEAP} -XX:+UseSerialGC")
    # Beam, which comes with PyFlink, tells of each of its parts that is not installed and that nobody needs here.
    for library in ("apache_beam", "pyflink"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _keep_signals_from_java()
    if config.flink.execution_mode == "process":
        # By default all workers of a mini-cluster would share the client's interpreter.
        os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 PyFlink spells it so


def _keep_signals_from_java() -> None:
    """Starts Flink's Java process in a session of its own.

    A signal to the whole process group, as of Ctrl-C, would end it before a savepoint is taken. It still ends with
    this process, whose end of a pipe it watches.
    """
    from pyflink import pyflink_gateway_server

    pyflink_gateway_server.Popen = partial(subprocess.Popen, start_new_session=True)


def _mini_cluster(folder: Path) -> StreamExecutionEnvironment:
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment

    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("rest.bind-address", "127.0.0.1")
    flink.set_string("metrics.fetcher.update-interval", "1 s")
    flink.set_string("execution.checkpointing.dir", (folder / "checkpoints").as_uri())
    flink.set_string("execution.checkpointing.savepoint-dir", (folder / "savepoints").as_uri())
    flink.set_string("taskmanager.memory.managed.size", "256m")
    flink.set_string("taskmanager.memory.network.min", "64m")
    flink.set_string("taskmanager.memory.network.max", "64m")
    return StreamExecutionEnvironment.get_execution_environment(flink)


def _stop(client: JobClient, watch: _JobWatch, folder: Path, *, drain: bool) -> None:
    """Ends the job with a savepoint; one that has not begun yet has read nothing, and is cancelled.

    ``JobClient.stop_with_savepoint`` should do it, but in PyFlink 2.3 it calls a Java method that is gone.

    :raises ServiceError: no savepoint could be taken, for instance because the job was restarting.
    """
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    if not watch.running() and not drain:
        log.info("stopped before it began to read")
        client._j_job_client.cancel().get()
        watch.cancelled = True
        return
    log.info("stopping: %s", "closing every window" if drain else "keeping open windows in a savepoint")
    while not watch.running() and not watch.finished(_POLL_S):
        pass  # there is nothing to drain before its tasks run
    # Below the job's id, by which the next start finds it.
    target = (folder / "savepoints" / str(client.get_job_id())).as_uri()
    form = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
    try:
        savepoint = client._j_job_client.stopWithSavepoint(drain, target, form).get()
    except Py4JJavaError as error:
        raise ServiceError(
            f"no savepoint could be taken, the next start goes on from the last checkpoint: {root_cause(error)}"
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

    def __init__(
        self, client: JobClient, checkpoints: Path, interval_ms: int, on_first: Callable[[], None] = lambda: None
    ) -> None:
        """
        :param interval_ms: between two checkpoints.
        :param on_first: called once, when the first checkpoint is found complete.
        """
        self._client = client
        self._checkpoints = checkpoints / str(client.get_job_id())
        self._patience_s = max(_PATIENCE_S, 4 * interval_ms / 1_000)
        self._on_first: Callable[[], None] | None = on_first
        #: the newest complete checkpoint, and when it was first seen
        self._newest: tuple[str, float] = ("", 0.0)
        self._told_ready: bool | None = None
        #: ended on purpose, which Flink tells as a failure
        self.cancelled = False
        self._result = client.get_job_execution_result()

    def running(self) -> bool:
        """Whether the job's tasks run. Flink calls a job running before they do, so: whether one checkpoint is there."""
        found = any(self._complete())
        if found and self._on_first is not None:
            first, self._on_first = self._on_first, None
            first()
        return found and not self._result.done()

    def ready(self) -> bool:
        """Whether checkpoints are completed: the broker takes what is written. Asked now and then, from any thread."""
        now, name = time.monotonic(), max(self._complete(), key=lambda name: (len(name), name), default="")
        if name and name != self._newest[0]:
            self._newest = (name, now)
        return bool(self._newest[0]) and now - self._newest[1] <= self._patience_s and not self._result.done()

    def tell(self) -> None:
        """Logs when checkpoints stop to be completed, and when they go on."""
        ready, before = self.ready(), self._told_ready
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

    def _complete(self) -> list[str]:
        return [path.parent.name for path in self._checkpoints.glob("chk-*/_metadata")]

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

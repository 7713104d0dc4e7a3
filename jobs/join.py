"""``rillet join``: the joiner job in Flink's mini-cluster, in this process, until told to stop.

A restart goes on from the savepoint of the last clean stop, or from the newest checkpoint after a crash.
On a cluster the same job is submitted with ``flink run -py jobs/joiner_job.py`` instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.toolchain import fetch_jars, python_environment

if TYPE_CHECKING:
    from pyflink.common import JobClient
    from pyflink.datastream import StreamExecutionEnvironment

log = logging.getLogger(__name__)

_POLL_S = 0.2
#: the mini-cluster's JVM holds Flink, its network buffers and managed memory
_HEAP = "1200m"


def run_join(config: RilletConfig, *, until_latest: bool = False, drain: bool = False) -> int:
    """Runs the joiner until SIGTERM or SIGINT, or until the present ends of the topics.

    :param until_latest: stop at the ends that the topics have now, closing every window.
    :param drain: on a signal close every open window as at the end of input, instead of keeping them in a
        savepoint for the next start.
    :raises BrokerUnavailableError: no broker answers.
    :raises ServiceError: the job failed; the message has Flink's root cause.
    """
    create_topics(
        config.kafka.connection, config.kafka.topic_partitions_of("join"), replication=config.kafka.replication
    )
    folder = config.data_dir / "joiner"
    folder.mkdir(parents=True, exist_ok=True)
    # What a joiner that was killed has left of its cache; nobody else uses this folder.
    shutil.rmtree(folder / "local", ignore_errors=True)
    _prepare_process(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from rillet.jobs.joiner_job import JobOptions, build

    restore_from = newest_snapshot(folder)
    if restore_from and until_latest:
        # Flink restores where to stop together with the offsets, so a bounded run must begin with none.
        raise ServiceError(
            f"--until-latest starts from nothing, but {restore_from} is left of an earlier run: remove it"
        )
    if restore_from:
        log.info("going on from %s", restore_from)
    env = _mini_cluster(folder)
    env.add_jars(fetch_jars().connector.as_uri())
    options = JobOptions(until_latest=until_latest, restore_from=restore_from, local_dir=str(folder / "local"))
    build(env, config, options)
    client = env.execute_async("rillet joiner")
    watch = _JobWatch(client, folder / "checkpoints")
    health = HealthServer(config.health.join_port, watch.running, host=config.health.host)
    try:
        health.start()
        topics = config.kafka.topics
        log.info("joining %s and %s into %s", topics.features, topics.actions, topics.examples)
        while not watch.finished(_POLL_S):
            if stop.is_set():
                log.info("stopping: %s", "closing every window" if drain else "keeping open windows in a savepoint")
                savepoint = _stop_with_savepoint(client, (folder / "savepoints").as_uri(), drain)
                log.info("stopped with savepoint %s", savepoint)
                break
    finally:
        health.close()
    watch.raise_failure()
    return 0


def newest_snapshot(folder: Path) -> str | None:
    """The newest complete savepoint or checkpoint below a folder, None when there is none."""
    found = [*folder.glob("savepoints/*/_metadata"), *folder.glob("checkpoints/*/chk-*/_metadata")]
    if not found:
        return None
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent.as_uri()


def _prepare_process(config: RilletConfig) -> None:
    """Settings that PyFlink reads from the environment of its Java process and of its workers."""
    os.environ.update(python_environment())
    os.environ.setdefault("JVM_ARGS", f"-Xmx{_HEAP} -XX:+UseSerialGC")
    if config.flink.execution_mode == "process":
        # By default all workers of a mini-cluster would share the client's interpreter.
        os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 PyFlink spells it so


def _mini_cluster(folder: Path) -> StreamExecutionEnvironment:
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment

    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("execution.checkpointing.dir", (folder / "checkpoints").as_uri())
    flink.set_string("execution.checkpointing.savepoint-dir", (folder / "savepoints").as_uri())
    flink.set_string("taskmanager.memory.managed.size", "256m")
    flink.set_string("taskmanager.memory.network.min", "64m")
    flink.set_string("taskmanager.memory.network.max", "64m")
    return StreamExecutionEnvironment.get_execution_environment(flink)


def _stop_with_savepoint(client: JobClient, directory: str, drain: bool) -> str:
    """What ``JobClient.stop_with_savepoint`` should do: in PyFlink 2.3 it calls a Java method that is gone.

    :raises ServiceError: none could be taken, for instance because the job was restarting.
    """
    from py4j.protocol import Py4JJavaError
    from pyflink.java_gateway import get_gateway

    form = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
    try:
        path: str = client._j_job_client.stopWithSavepoint(drain, directory, form).get()
    except Py4JJavaError as error:
        raise ServiceError(
            f"no savepoint could be taken, the next start goes on from the last checkpoint: {root_cause(error)}"
        ) from error
    return path


class _JobWatch:
    """Asks a job's state without blocking signals, and explains a failure in one line."""

    def __init__(self, client: JobClient, checkpoints: Path) -> None:
        self._client = client
        self._checkpoints = checkpoints / str(client.get_job_id())
        self._result = client.get_job_execution_result()

    def running(self) -> bool:
        """Whether the job's tasks run. Flink calls a job running before they do, so: whether one checkpoint is there."""
        return not self._result.done() and any(self._checkpoints.glob("chk-*/_metadata"))

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

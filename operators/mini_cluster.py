"""Flink's mini-cluster in a process of ours: its Java process, its settings, and how a job in it is asked for and stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rillet.operators.flink_log import log_environment

if TYPE_CHECKING:
    from pyflink.common import JobClient
    from pyflink.datastream import StreamExecutionEnvironment

    from rillet.operators.flink_config import FlinkConfig
    from rillet.operators.memory import TaskMemory


def prepare_process(environment: Mapping[str, str], log_folder: Path, flink: FlinkConfig, lock: int) -> None:
    """Settings that PyFlink reads from the environment of its Java process and of its workers; once per process.

    :param environment: in which Flink finds Java and this interpreter.
    :param lock: a file descriptor that the Java process has too while it lives.
    :raises OSError: the log folder cannot be written to.
    """
    os.environ.update(environment)
    os.environ.update(log_environment(log_folder))
    os.environ.setdefault("JVM_ARGS", f"-Xmx{flink.heap_bytes >> 20}m -XX:+UseSerialGC")
    # Beam, which comes with PyFlink, tells of each of its parts that is not installed and that nobody needs here.
    for library in ("apache_beam", "pyflink"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _start_java_apart(lock)
    if flink.execution_mode == "process":
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


def mini_cluster(checkpoint_dir: Path, memory: TaskMemory, work_dir: Path) -> StreamExecutionEnvironment:
    """A mini-cluster, not started yet, on ports that are free.

    :param work_dir: for files of its tasks.
    """
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment

    flink = Configuration()
    flink.set_string("python.executable", sys.executable)
    flink.set_string("python.client.executable", sys.executable)
    flink.set_string("rest.bind-port", "0")
    flink.set_string("rest.bind-address", "127.0.0.1")
    flink.set_string("metrics.fetcher.update-interval", "1 s")
    flink.set_string("execution.checkpointing.dir", checkpoint_dir.as_uri())
    # What a Flink that was killed leaves there is deleted by the next start, unlike in the system's temporary folder.
    work_dir.mkdir(exist_ok=True)
    flink.set_string("io.tmp.dirs", str(work_dir))
    for name, size in memory.settings().items():
        if name != "taskmanager.memory.process.size":  # one process for all of Flink, its heap is set
            flink.set_string(name, size)
    return StreamExecutionEnvironment.get_execution_environment(flink)


def stop_with_savepoint(client: JobClient, target: Path, *, drain: bool) -> str:
    """Ends a job with a savepoint; its address.

    ``JobClient.stop_with_savepoint`` should do it, but in PyFlink 2.3 it calls a Java method that is gone.

    :param drain: as at the end of its input.
    :raises Py4JJavaError: no savepoint could be taken, for instance because the job was restarting.
    """
    from pyflink.java_gateway import get_gateway

    form = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType.CANONICAL
    return str(client._j_job_client.stopWithSavepoint(drain, target.as_uri(), form).get())


def rest_url(client: JobClient) -> str:
    """Address of the mini-cluster's REST interface, which Flink tells nobody but the cluster's owner."""
    job_client = client._j_job_client
    cluster = job_client.getClass().getDeclaredField("miniCluster")
    cluster.setAccessible(True)
    return str(cluster.get(job_client).getRestAddress().get().toString())

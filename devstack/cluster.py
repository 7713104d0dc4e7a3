"""A standalone Flink cluster from the pip package: JobManager and TaskManagers as plain processes.

For trying a submission and for killing things; a real cluster is somebody else's. One slot a
TaskManager, because thread mode has one Python interpreter a process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyflink
from ruamel.yaml import YAML

from rillet.devstack.process import Process, free_port
from rillet.jobs.errors import ServiceError
from rillet.jobs.toolchain import fetch_jars, python_environment

FLINK_HOME = Path(pyflink.__file__).parent
_JARS_OF_PYTHON = [*(FLINK_HOME / "opt").glob("flink-python-*.jar")]
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class FlinkCluster:
    """A cluster whose configuration, logs, pid files and checkpoints lie in ``folder``."""

    folder: Path
    rest_port: int

    @property
    def rest_url(self) -> str:
        """Address of the REST interface and web page."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def job_manager(self) -> Process:
        """The JobManager's process."""
        return Process("jobmanager", self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """In which ``flink`` speaks to this cluster."""
        found = python_environment()
        return found | {
            "FLINK_CONF_DIR": str(self.folder / "conf"),
            "FLINK_LOG_DIR": str(self.folder),
            "FLINK_LIB_DIR": str(self.folder / "lib"),
            "PATH": os.pathsep.join([str(FLINK_HOME / "bin"), found["PATH"]]),
        }

    def task_manager(self, number: int = 0) -> Process:
        """A TaskManager's process."""
        return Process(f"taskmanager-{number}", self.folder)

    def start(self, task_managers: int = 1) -> None:
        """Starts all processes and waits until their slots are registered.

        :raises ServiceError: one died or is not ready in time.
        """
        self.configure()
        script = FLINK_HOME / "bin"
        self.job_manager.start(["bash", str(script / "jobmanager.sh"), "start-foreground"], self.environment)
        self.job_manager.wait_until(lambda: self.get("/overview") is not None, _START_TIMEOUT_S)
        for number in range(task_managers):
            self.start_task_manager(number)
        self.task_manager(0).wait_until(
            lambda: (self.get("/overview") or {}).get("slots-total") == task_managers, _START_TIMEOUT_S
        )

    def start_task_manager(self, number: int = 0) -> None:
        """Starts one TaskManager with a working directory of its own; it registers itself."""
        work = self.folder / f"taskmanager-{number}"
        command = ["bash", str(FLINK_HOME / "bin" / "taskmanager.sh"), "start-foreground"]
        command += ["-D", f"process.taskmanager.working-dir={work}", "-D", f"io.tmp.dirs={work}"]
        command += ["-D", f"taskmanager.resource-id={work.name}"]
        work.mkdir(exist_ok=True)
        self.task_manager(number).start(command, self.environment)

    def stop(self) -> None:
        """Stops every process of the cluster."""
        for pid_file in sorted(self.folder.glob("taskmanager-*.pid")):
            Process(pid_file.stem, self.folder).stop()
        self.job_manager.stop()

    def submit(self, script: Path, arguments: Sequence[str]) -> str:
        """``flink run -d -py SCRIPT ARGUMENTS``; the job's id.

        :raises ServiceError: the submission failed, with the end of its output.
        """
        command = ["bash", str(FLINK_HOME / "bin" / "flink"), "run", "-d", "-m", f"127.0.0.1:{self.rest_port}"]
        command += ["-py", str(script), *arguments]
        done = subprocess.run(  # noqa: S603
            command, env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )
        marker = "JobID "
        if done.returncode or marker not in done.stdout:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("\tat ")]
            raise ServiceError("flink run failed:\n" + "\n".join(f"  {line}" for line in lines[-20:]))
        return done.stdout.split(marker, 1)[1].split()[0]

    def job_state(self, job_id: str) -> str:
        """State of a job as Flink names it, such as RUNNING or FINISHED."""
        return str((self.get(f"/jobs/{job_id}") or {}).get("state", "UNKNOWN"))

    def drain(self, job_id: str, timeout_s: float = 120.0) -> None:
        """Stops a job as at the end of its input: every window closes, then a last savepoint is taken.

        :raises ServiceError: the savepoint failed or took too long.
        """
        self.stop_job(job_id, drain=True, timeout_s=timeout_s)

    def stop_job(self, job_id: str, *, drain: bool = False, timeout_s: float = 120.0) -> Path:
        """``flink stop JOB``: ends a job with a savepoint in the folder of the cluster's configuration; the savepoint.

        :param drain: as at the end of its input.
        :raises ServiceError: the savepoint failed or took too long.
        """
        body = json.dumps({"drain": drain}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.rest_url}/jobs/{job_id}/stop", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
            trigger = json.load(answer)["request-id"]
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.get(f"/jobs/{job_id}/savepoints/{trigger}") or {}
            if status.get("status", {}).get("id") == "COMPLETED":
                cause = status.get("operation", {}).get("failure-cause")
                if cause:
                    raise ServiceError(f"job {job_id} could not be stopped: {cause['stack-trace'].splitlines()[0]}")
                return Path(status["operation"]["location"].removeprefix("file:"))
            time.sleep(0.2)
        raise ServiceError(f"job {job_id} is not stopped after {timeout_s:.0f} s")

    def cancel(self, job_id: str) -> None:
        """``flink cancel JOB``: ends a job where it stands; its last checkpoint stays.

        :raises ServiceError: the cluster does not do it.
        """
        request = urllib.request.Request(f"{self.rest_url}/jobs/{job_id}", method="PATCH")  # noqa: S310 - our own address
        try:
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - our own address
        except OSError as error:
            raise ServiceError(f"job {job_id} could not be cancelled: {error}") from error

    def completed_checkpoints(self, job_id: str) -> int:
        """How many checkpoints of a job have completed."""
        counts = (self.get(f"/jobs/{job_id}/checkpoints") or {}).get("counts", {})
        return int(counts.get("completed", 0))

    def get(self, path: str) -> dict[str, Any] | None:
        """A resource of the REST interface, None while it does not answer."""
        try:
            with urllib.request.urlopen(self.rest_url + path, timeout=10) as answer:  # noqa: S310 - our own address
                body: dict[str, Any] = json.load(answer)
                return body
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def configure(self) -> None:
        """Copies the stock configuration, which has the ``--add-opens`` that Flink needs, and adds ours.

        In ``lib`` are the Kafka connector and Flink's own Python jar too: a process loads the library of an interpreter
        once, so a TaskManager that took it from a job's files could run no other job after that one.
        """
        lib = self.folder / "lib"
        lib.mkdir(exist_ok=True)
        for jar in [*(FLINK_HOME / "lib").glob("*.jar"), *_JARS_OF_PYTHON, fetch_jars().connector]:
            if not (link := lib / jar.name).exists():
                link.symlink_to(jar)
        conf = self.folder / "conf"
        shutil.copytree(FLINK_HOME / "conf", conf, dirs_exist_ok=True)
        yaml = YAML(typ="safe", pure=True)
        settings = _flatten(yaml.load((conf / "config.yaml").read_text())) | self.settings()
        with (conf / "config.yaml").open("w") as out:
            yaml.dump(settings, out)

    def settings(self) -> dict[str, Any]:
        """Of Flink, beside the stock ones."""
        return {
            "rest.port": self.rest_port,
            "rest.bind-port": self.rest_port,
            "jobmanager.rpc.port": free_port(),
            "jobmanager.memory.process.size": "1g",
            "taskmanager.memory.process.size": "1600m",
            "taskmanager.numberOfTaskSlots": 1,
            "execution.checkpointing.dir": (self.folder / "checkpoints").as_uri(),
            "execution.checkpointing.savepoint-dir": (self.folder / "savepoints").as_uri(),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
            # a TaskManager that was killed is noticed in seconds, not in the default 50
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 6000,
        }


def start_cluster(folder: Path, task_managers: int = 1) -> FlinkCluster:
    """Starts a cluster on free ports.

    :raises ServiceError: a process did not come up.
    :raises ToolchainError: Java or the connector is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cluster = FlinkCluster(folder.resolve(), free_port())
    try:
        cluster.start(task_managers)
    except ServiceError:
        cluster.stop()
        raise
    return cluster


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

"""A standalone Flink cluster of two processes, out of the apache-flink package: what `flink run` submits to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pyflink

from jobs.local.process import Process, free_port
from jobs.local.stack import probe, python_environment
from jobs.local.toolchain import fetch_jars

HOME = Path(pyflink.__file__).parent


class FlinkCluster:
    """One JobManager and one TaskManager with one slot; everything it writes lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rest_port = free_port()
        self.jobmanager = Process("jobmanager", folder)
        self.taskmanager = Process("taskmanager", folder)
        # As an image would: the distribution's lib with the connector beside it.
        lib = folder / "lib"
        lib.mkdir(parents=True)
        for jar in [*(HOME / "lib").glob("*.jar"), fetch_jars().connector]:
            (lib / jar.name).symlink_to(jar)
        conf = folder / "conf"
        shutil.copytree(HOME / "conf", conf)
        with (conf / "config.yaml").open("a") as file:
            file.write(self._settings())
        self.environment = {
            **python_environment(),
            "FLINK_CONF_DIR": str(conf),
            "FLINK_LIB_DIR": str(lib),
            "FLINK_LOG_DIR": str(folder / "log"),
            "PATH": f"{HOME / 'bin'}{os.pathsep}{python_environment()['PATH']}",
        }

    def _settings(self) -> str:
        python = shutil.which("python", path=python_environment()["PATH"])
        state = (self.folder / "state").as_uri()
        settings = {
            "rest.port": self.rest_port,
            "jobmanager.rpc.port": free_port(),
            "python.executable": python,
            "python.client.executable": python,
            "taskmanager.memory.managed.size": "128m",
            "jobmanager.memory.process.size": "1100m",
            "taskmanager.memory.process.size": "1400m",
            "execution.checkpointing.dir": f"{state}/checkpoints",
            "execution.checkpointing.savepoint-dir": f"{state}/savepoints",
        }
        return "\n" + "".join(f"{key}: {value}\n" for key, value in settings.items())

    def start(self) -> None:
        for process in (self.jobmanager, self.taskmanager):
            process.start([HOME / "bin" / f"{process.name}.sh", "start-foreground"], self.environment)
        self.jobmanager.wait_until(lambda: probe(f"http://127.0.0.1:{self.rest_port}/overview"), 60)
        self.taskmanager.wait_until(lambda: self.rest("/overview")["slots-total"] == 1, 60)

    def stop(self) -> None:
        for process in (self.taskmanager, self.jobmanager):
            process.stop(5)

    def rest(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.rest_port}{path}", timeout=10) as answer:
            return json.load(answer)

    def job_states(self) -> list[str]:
        """States of all jobs that the cluster knows."""
        return [job["status"] for job in self.rest("/jobs")["jobs"]]

    def all_tasks_run(self) -> bool:
        """Whether there is one running job, and every task of it runs."""
        jobs = [job["id"] for job in self.rest("/jobs")["jobs"] if job["status"] == "RUNNING"]
        if len(jobs) != 1:
            return False
        return all(vertex["status"] == "RUNNING" for vertex in self.rest(f"/jobs/{jobs[0]}")["vertices"])

    def run(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env={**self.environment, **more}, capture_output=True, text=True, timeout=120, check=False
        )

"""A highly available Flink cluster: the ZooKeeper of Flink's distribution, JobManagers that stand by, TaskManagers to kill.

Each process has a log, a pid file and, a TaskManager, a working directory of its own below the cluster's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rillet.devstack.cluster import FLINK_HOME, FlinkCluster
from rillet.devstack.process import Process, free_port

_START_TIMEOUT_S = 120.0
#: begins the resource ids of TaskManagers
_NAME = "taskmanager-"
#: what a JobManager that was killed is missed after; a minute by default
_SESSION_MS = 6_000


@dataclass(frozen=True, slots=True)
class HaCluster(FlinkCluster):
    """JobManagers are numbered; ``rest_port`` is that of the one that is asked, which passes questions on to the leader."""

    zookeeper_port: int = 0

    @property
    def zookeeper(self) -> Process:
        """ZooKeeper's process."""
        return Process("zookeeper", self.folder)

    def job_manager_number(self, number: int) -> Process:
        """A JobManager's process. The first to be started leads, the next to be started follows it."""
        return Process(f"jobmanager-{number}", self.folder)

    @property
    def processes(self) -> list[Process]:
        """All that run or were killed."""
        return [Process(found.stem, self.folder) for found in sorted(self.folder.glob("*.pid"))]

    def start_zookeeper(self) -> None:
        """Starts it. It answers within seconds, and Flink waits for it."""
        data = self.folder / "zookeeper-data"
        (self.folder / "conf" / "zoo.cfg").write_text(
            f"tickTime=500\ndataDir={data}\nclientPort={self.zookeeper_port}\nclientPortAddress=127.0.0.1\n"
            f"admin.enableServer=false\nserver.1=127.0.0.1:{free_port()}:{free_port()}\n"
        )
        # Not zookeeper.sh, whose own process would be the shell.
        command = ["bash", str(FLINK_HOME / "bin" / "flink-console.sh"), "zookeeper"]
        command += ["--zkConfigFile", str(self.folder / "conf" / "zoo.cfg"), "--peerId", "1"]
        java = "-Xmx128m -Dzookeeper.jmx.log4j.disable=true"
        self.zookeeper.start(command, self.environment | {"JVM_ARGS": java})

    def start_job_manager(self, number: int) -> HaCluster:
        """Starts one and waits until it answers; the cluster as seen from it."""
        port = free_port()
        command = ["bash", str(FLINK_HOME / "bin" / "jobmanager.sh"), "start-foreground"]
        command += ["-D", f"rest.port={port}", "-D", f"rest.bind-port={port}"]
        process, seen = self.job_manager_number(number), replace(self, rest_port=port)
        process.start(command, self.environment)
        process.wait_until(lambda: seen.get("/overview") is not None, _START_TIMEOUT_S)
        return seen

    def has_slots(self, slots: int) -> bool:
        """Whether the leader has heard of so many slots, of tasks or free."""
        return (self.get("/overview") or {}).get("slots-total") == slots

    def busy_task_managers(self) -> list[int]:
        """Numbers of those that run tasks."""
        found = (self.get("/taskmanagers") or {"taskmanagers": []})["taskmanagers"]
        busy = {one["id"] for one in found if one["slotsNumber"] > one["freeSlots"]}
        return sorted(int(name.removeprefix(_NAME)) for name in busy)

    def complaints(self, lines: int = 40) -> str:
        """The last warnings and errors of each log, for a test that has failed."""
        found = {
            log: log.read_text("utf-8", "replace").splitlines() for log in sorted(self.folder.glob("*manager-*.log"))
        }
        bad = {
            log: [line for line in text if re.search(r" (WARN|ERROR) |^(Caused by|[a-z.]+Exception)", line)]
            for log, text in found.items()
        }
        return "\n".join("\n".join([f"--- {log.name}", *text[-lines:]]) for log, text in bad.items())

    def stop(self) -> None:
        """Kills every process: nothing of the cluster is needed any more."""
        for process in self.processes:
            process.stop(kill=True)

    def settings(self) -> dict[str, Any]:
        """With high availability."""
        return FlinkCluster.settings(self) | {
            "high-availability.type": "zookeeper",
            "high-availability.zookeeper.quorum": f"127.0.0.1:{self.zookeeper_port}",
            "high-availability.zookeeper.client.session-timeout": _SESSION_MS,
            "high-availability.storageDir": (self.folder / "ha").as_uri(),
            "high-availability.cluster-id": "/rillet",
        }


@contextmanager
def ha_cluster(folder: Path, task_managers: int = 1) -> Iterator[HaCluster]:
    """A cluster with one JobManager and so many slots; killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = HaCluster(folder.resolve(), 0, free_port())
    try:
        cluster.configure()
        cluster.start_zookeeper()
        seen = cluster.start_job_manager(0)
        for number in range(task_managers):
            cluster.start_task_manager(number)
        cluster.task_manager(task_managers - 1).wait_until(lambda: seen.has_slots(task_managers), _START_TIMEOUT_S)
        yield seen
    finally:
        cluster.stop()

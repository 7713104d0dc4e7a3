"""A real Kafka broker for demos and tests: one KRaft node (KIP-500), no ZooKeeper, no script of the distribution.

Not for production: one replica of everything. Its data lies in a folder and survives a restart.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topics import ensure_broker
from rillet.devstack.process import Process, free_port, require_free_port
from rillet.jobs.errors import ServiceError
from rillet.jobs.toolchain import Jars, fetch_jars, find_java, java_environment

#: Small heap and a serial collector: the broker shares two cores with Flink, the trainer and the server.
JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")
LOG_OPTIONS = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
START_TIMEOUT_S = 60.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=268435456
log.index.size.max.bytes=2097152
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker whose data, log and pid file lie in ``folder``."""

    folder: Path
    port: int

    @property
    def process(self) -> Process:
        """The process behind it."""
        return Process("broker", self.folder)

    @property
    def bootstrap_servers(self) -> str:
        """Its address as clients take it."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process.pid is not None

    def start(self) -> None:
        """Starts it and waits until it answers a client.

        :raises PortInUseError: the port is taken.
        :raises ServiceError: it did not come up; with the last line of its log.
        :raises ToolchainError: Java, Maven or the jars are missing.
        """
        require_free_port(self.port, "[kafka] bootstrap_servers")
        jars, java = fetch_jars(), find_java()
        properties = self.folder / "server.properties"
        data = self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        properties.write_text(
            _PROPERTIES.format(port=self.port, controller_port=free_port(), data=data.resolve()), "utf-8"
        )
        if not (data / "meta.properties").is_file():
            self._format(jars, java.command, properties)
        command = [*_jvm(java.command, jars), "kafka.Kafka", str(properties)]
        self.process.start(command, java_environment(java))
        try:
            self.process.wait_until(self._answers, START_TIMEOUT_S)
        except BaseException:
            self.process.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> bool:
        """Stops it, cleanly or as a crash would; False when it did not run."""
        return self.process.stop(kill=kill)

    def _answers(self) -> bool:
        try:
            ensure_broker(self.bootstrap_servers, timeout_s=2.0)
        except BrokerUnavailableError:
            return False
        return True

    def _format(self, jars: Jars, java: Path, properties: Path) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [*_jvm(java, jars), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        tool += ["--config", str(properties)]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        if done.returncode:
            raise ServiceError(f"the broker's data folder cannot be formatted: {(done.stderr or done.stdout).strip()}")


def start_broker(folder: Path, port: int = 0) -> Broker:
    """Starts a broker; port 0 takes a free one.

    :raises ServiceError: see :meth:`Broker.start`.
    """
    broker = Broker(folder, port or free_port())
    broker.start()
    return broker


def _jvm(java: Path, jars: Jars) -> list[str]:
    return [str(java), *JVM_OPTIONS, *LOG_OPTIONS, "-cp", jars.broker_class_path]

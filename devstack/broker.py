"""A real Kafka broker for demos and tests: one KRaft node (KIP-500), no ZooKeeper, no script of the distribution.

Not for production: one replica of everything. Its data lies in a folder and survives a restart. Plaintext, unless it
is given a user.
"""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError
from rillet.connectors.limits import TOPIC_MAX_BYTES
from rillet.connectors.topics import ensure_broker
from rillet.devstack.certificates import Certificates, make_certificates
from rillet.devstack.ports import require_free_port
from rillet.devstack.process import Process, free_port
from rillet.jobs.data_lock import unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.toolchain import Jars, fetch_jars, find_java, java_environment

#: Small heap and a serial collector: the broker shares two cores with Flink, the trainer and the server.
JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")
LOG_OPTIONS = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
#: a JVM on a machine that is busy with other things
START_TIMEOUT_S = 180.0
_ANSWER_S = 5.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,BROKER:{protocol}
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
message.max.bytes={max_bytes}
replica.fetch.max.bytes={max_bytes}
"""

#: TLS with a certificate of our own, and a user with a password (SCRAM, RFC 7677) whom the broker itself uses too
_SECURED = """\
sasl.enabled.mechanisms=SCRAM-SHA-256
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256
listener.name.broker.scram-sha-256.sasl.jaas.config={login}
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
"""


@dataclass(frozen=True, slots=True)
class User:
    """The one user of a secured broker. No comma, bracket, backslash or double quote: it goes through three syntaxes."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker whose data, log and pid file lie in ``folder``.

    :param user: makes it take this user only (SASL/SCRAM-SHA-256 over TLS); without one it is plaintext.
    """

    folder: Path
    port: int
    user: User | None = None

    @property
    def process(self) -> Process:
        """Its process."""
        return Process("broker", self.folder)

    @property
    def bootstrap_servers(self) -> str:
        """Its address as clients take it."""
        return f"127.0.0.1:{self.port}"

    @property
    def connection(self) -> KafkaConnection:
        """How clients get in."""
        if self.user is None:
            return KafkaConnection(self.bootstrap_servers)
        settings = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": self.user.name,
            "sasl.password": self.user.password,
            "ssl.ca.location": str(self._certificates.authority),
        }
        return KafkaConnection(self.bootstrap_servers, settings)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process.pid is not None

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Starts it and waits until it answers a client.

        :param say: is told now and then that it is waited for, a line each.
        :raises PortInUseError: the port is taken.
        :raises ServiceError: it runs already, or did not come up; with the last line of its log.
        :raises ToolchainError: Java, Maven or the jars are missing.
        """
        if (pid := self.process.pid) is not None:
            raise ServiceError(f"broker runs already (pid {pid}): stop it first")
        require_free_port(self.port, "[kafka] bootstrap_servers")
        jars, java = fetch_jars(), find_java()
        properties = self._properties_file
        data = self.folder / "data"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            properties.touch(mode=0o600)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        properties.write_text(self._properties(data), "utf-8")
        if not (data / "meta.properties").is_file():
            self._format(jars, java.command, properties)
        command = [*_jvm(java.command, jars), "kafka.Kafka", str(properties)]
        self.process.start(command, java_environment(java))
        try:
            self.wait(say)
        except BaseException:
            self.process.stop(kill=True)
            raise

    def wait(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Waits until one that runs answers a client.

        :param say: see :meth:`start`.
        :raises ServiceError: it was started for another port, died, or did not answer in time.
        """
        pid = self.process.pid
        if f"BROKER://{self.bootstrap_servers}," not in self._properties_file.read_text("utf-8"):
            raise ServiceError(
                f"the broker in {self.folder} runs (pid {pid}) at another address than {self.bootstrap_servers}:"
                " stop it first, with `rillet down`"
            )
        self.process.wait_until(
            self._answers,
            START_TIMEOUT_S,
            lambda seconds: say(f"broker  (pid {pid}) runs and does not answer yet ({seconds:.0f} s so far)"),
            "the machine may be overloaded",
        )

    def stop(self, *, kill: bool = False) -> bool:
        """Stops it, cleanly or as a crash would; False when it did not run."""
        return self.process.stop(kill=kill)

    def _answers(self) -> bool:
        try:
            ensure_broker(self.connection, timeout_s=_ANSWER_S)
        # One that has just come up does not know its users yet.
        except (BrokerUnavailableError, BrokerRefusedError):
            return False
        return True

    @property
    def _properties_file(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _certificates(self) -> Certificates:
        return Certificates(self.folder.resolve() / "certificates")

    def _properties(self, data: Path) -> str:
        text = _PROPERTIES.format(
            port=self.port,
            controller_port=free_port(),
            data=data.resolve(),
            protocol="PLAINTEXT" if self.user is None else "SASL_SSL",
            max_bytes=TOPIC_MAX_BYTES,
        )
        if self.user is None:
            return text
        made = make_certificates(self._certificates.folder)
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        login = f'{module} required username="{self.user.name}" password="{self.user.password}";'
        return text + _SECURED.format(login=login, keystore=made.broker, truststore=made.authority)

    def _format(self, jars: Jars, java: Path, properties: Path) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [*_jvm(java, jars), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        tool += ["--config", str(properties)]
        if self.user is not None:
            tool += ["--add-scram", f"SCRAM-SHA-256=[name={self.user.name},password={self.user.password}]"]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        if done.returncode:
            raise ServiceError(f"the broker's data folder cannot be formatted: {(done.stderr or done.stdout).strip()}")


def start_broker(folder: Path, port: int = 0, user: User | None = None) -> Broker:
    """Starts a broker; port 0 takes a free one.

    :param user: see :class:`Broker`.
    :raises ServiceError: see :meth:`Broker.start`.
    """
    broker = Broker(folder, port or free_port(), user)
    broker.start()
    return broker


def _jvm(java: Path, jars: Jars) -> list[str]:
    return [str(java), *JVM_OPTIONS, *LOG_OPTIONS, "-cp", jars.broker_class_path]

"""The services of docker-compose.yml as plain processes: broker, joiner, trainer, server.

Each runs ``rillet <command> --config FILE`` in a session of its own. What is known of them lies in
``data_dir``: pid files and logs in ``services/``, the broker's data in ``broker/``; so that another
process can find, question and stop them.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topics import create_topics, ensure_broker, topic_ids
from rillet.devstack.broker import Broker
from rillet.devstack.configuration import differences, record
from rillet.devstack.ports import holder_of, require_free_port
from rillet.devstack.process import Process
from rillet.jobs.config import RilletConfig
from rillet.jobs.config_checks import check_here
from rillet.jobs.data_lock import unwritable
from rillet.jobs.errors import PortInUseError, ServiceError
from rillet.jobs.services import SERVICES, host_of, port_of, probe, ready_url
from rillet.jobs.start_checks import check_start
from rillet.jobs.toolchain import python_environment

#: Flink's mini cluster or torch on two cold cores, that others use too
READY_TIMEOUT_S = 240.0
#: what makes a service ready
_READY_WITH = {
    "join": "Flink's first checkpoint",
    "train": "its first publication",
    "serve": "the trainer's first base and the updates since then",
}
#: who reads before who writes: none gets records of a spec that it does not know yet, and the server finds a base of its own
_RESTART_ORDER = ("train", "join", "serve")
_LOCAL_HOSTS = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Stack:
    """The local services of one configuration file."""

    config: RilletConfig
    config_path: Path

    @property
    def broker(self) -> Broker:
        """The local broker that would serve this configuration.

        :raises ServiceError: bootstrap_servers is not one address of this machine.
        """
        servers = self.config.kafka.bootstrap_servers
        host, _, port = servers.rpartition(":")
        if host not in _LOCAL_HOSTS or not port.isdigit():
            raise ServiceError(
                f"[kafka] bootstrap_servers is {servers}: a broker can be started here for 127.0.0.1:PORT only, "
                f"start that one yourself"
            )
        return Broker(self.config.data_dir / "broker", int(port))

    @property
    def owns_broker(self) -> bool:
        """Whether a broker runs that was started for this data_dir."""
        return Process("broker", self.config.data_dir / "broker").pid is not None

    def process(self, name: str) -> Process:
        """The process of a service."""
        return Process(name, self.config.data_dir / "services")

    def start_broker(self, say: Callable[[str], None] = lambda _: None) -> bool:
        """Starts the broker unless one answers at the address already, and makes the topics.

        One that was started before and does not answer yet is waited for.

        :param say: is told what is waited for, a line each.
        :returns: whether it was started by this call.
        :raises ServiceError: it cannot be started, or not as [kafka.client] wants it.
        :raises BrokerRefusedError: one answers and does not let us in.
        """
        kafka = self.config.kafka
        try:
            ensure_broker(kafka.connection, timeout_s=1.0)
            started = False
        except BrokerUnavailableError as error:
            if not kafka.connection.plaintext:
                raise ServiceError(f"{error}; one started here would be plaintext, [kafka.client] is not") from error
            broker = self.broker
            started = not broker.running
            if started:
                broker.start(say)
            else:
                say(f"broker  runs (pid {broker.process.pid}) and does not answer yet: waiting for it")
                broker.wait(say)
        create_topics(kafka.connection, kafka.topic_partitions, replication=kafka.replication)
        return started

    def start(self, name: str) -> bool:
        """Starts a service; False when it ran already.

        :raises ServiceError: its port is taken, or it cannot be started.
        """
        process = self.process(name)
        if process.pid is not None:
            return False
        self.require_free_ports([name])
        process.start(self.command(name), python_environment(), configuration=record(self.config))
        return True

    def require_free_ports(self, names: Sequence[str]) -> None:
        """Refuses ports of services that others than themselves listen on.

        :raises PortInUseError: with every port that is taken, and by whom where that can be told.
        :raises ServiceError: a service cannot listen at its address.
        """
        taken = []
        for name in names:
            if port := port_of(self.config, name):
                what = "[serving] port" if name == "serve" else f"[health] {name}_port"
                try:
                    require_free_port(port, what, host_of(self.config, name))
                except PortInUseError as error:
                    if not self._listens_itself(name, port):
                        taken.append(f"{name}: {error}")
        if taken:
            raise PortInUseError("; ".join(taken))

    def _listens_itself(self, name: str, port: int) -> bool:
        """Whether it is the service as it runs now that listens on a port; where nobody can tell, it is taken to be."""
        pid = self.process(name).pid
        if pid is None:
            return False
        holder = holder_of(port)
        try:
            # Each service has a session of its own, and its processes are in it.
            return holder is None or os.getsid(holder.pid) == pid
        except ProcessLookupError:  # it has ended meanwhile
            return True

    def differences(self, name: str) -> list[str]:
        """How the configuration that a running service was started with differs from this one; empty where it does not."""
        return differences(self.process(name).configuration, record(self.config))

    def check_topics(self) -> None:
        """Refuses topics that are not those that the joiner's state was made of; asks the broker.

        :raises JoinerError: see :func:`check_start`.
        """
        topics = self.config.kafka.topics
        ids = topic_ids(self.config.kafka.connection, [topics.features, topics.actions])
        found = {"features": ids[topics.features], "actions": ids[topics.actions]}
        check_start(self.config, self.config_path, found)

    def command(self, name: str) -> list[str]:
        """The command line of a service."""
        servers = self.config.kafka.bootstrap_servers
        options = ["--config", str(self.config_path), "--bootstrap-servers", servers]
        return [sys.executable, "-m", "rillet", name, *options]

    def wait_ready(
        self,
        name: str,
        timeout_s: float = READY_TIMEOUT_S,
        say: Callable[[str], None] = lambda _: None,
        beside: Sequence[str] = (),
    ) -> None:
        """Waits until a service says that it is ready; one without a port only has to live.

        The joiner has an interval of its checkpoints more: it is ready after the first one.

        :param say: is told now and then what is waited for, a line each.
        :param beside: services that have to live meanwhile.
        :raises ServiceError: it, or one beside it, died, or it was not ready in time.
        """
        if name == "join":
            timeout_s += self.config.flink.checkpoint_interval_ms / 1_000

        def ready() -> bool:
            for other in beside:
                self.process(other).require_alive()
            return self.is_ready(name)

        self.process(name).wait_until(
            ready,
            timeout_s,
            lambda seconds: say(f"{name:7} waits for {_READY_WITH[name]} ({seconds:.0f} s so far)"),
            "it runs on and may only be slow: run the same command again to wait for it, or look at `rillet status`",
        )

    def is_ready(self, name: str) -> bool:
        """Whether a service lives and its readiness probe answers 200."""
        if self.process(name).pid is None:
            return False
        url = ready_url(self.config, name)
        return url is None or probe(url) == 200

    def stop(self, name: str, *, kill: bool = False) -> bool:
        """Stops a service; False when it did not run."""
        # The joiner takes a savepoint of all open windows before it ends.
        return self.process(name).stop(timeout_s=60.0 if name == "join" else 20.0, kill=kill)


def up(stack: Stack, say: Callable[[str], None], services: Sequence[str] = SERVICES, *, restart: bool = False) -> None:
    """Starts what does not run yet and waits until all of it is ready. Running it again changes nothing.

    What can be told to be wrong is told before anything is started or stopped. Interrupted, it stops what it has started and
    is not ready, and says what runs. A second one at once waits for what the first one starts.

    :param say: takes progress, a line each.
    :param services: besides the broker.
    :param restart: restart services that run with another configuration, one after the other, each once the one before it
        is ready; without it they are refused.
    :raises ServiceError: services run with another configuration, a port is taken, or a service did not come up; the others
        are left running for a look.
    :raises ConfigError: the services cannot all run here, or not with these feature specs.
    :raises JoinerError: the joiner could not go on with its state.
    """
    check_here(stack.config, stack.config_path)
    if services:
        check_start(stack.config, stack.config_path)
    started: list[str] = []
    try:
        with _starting(stack, say):
            others = _running_otherwise(stack, services)
            if others and not restart:
                raise ServiceError(_refusal(stack, others))
            stack.require_free_ports([name for name in services if name in others or stack.process(name).pid is None])
            _start_broker(stack, say)
            if services:
                stack.check_topics()
            if others:
                _roll(stack, [name for name in _RESTART_ORDER if name in services], list(others), say, started)
            else:
                for name in services:
                    _start_service(stack, name, say, started)
        if not others:
            for name in services:
                _wait_ready(stack, name, say, beside=services)
    except KeyboardInterrupt:
        for name in reversed(started):
            if not stack.is_ready(name) and stack.stop(name):
                say(f"{name:7} stopped, since it was not ready yet")
        running = [name for name in SERVICES if stack.process(name).pid is not None]
        running += ["broker"] if stack.owns_broker else []
        say(
            f"interrupted; running: {', '.join(running)}; `rillet down` stops them"
            if running
            else "interrupted; nothing runs"
        )
        raise


def _running_otherwise(stack: Stack, services: Sequence[str]) -> dict[str, list[str]]:
    """The services that run with another configuration, and how it differs."""
    running = [name for name in services if stack.process(name).pid is not None]
    return {name: found for name in running if (found := stack.differences(name))}


def _refusal(stack: Stack, others: dict[str, list[str]]) -> str:
    """Of services that were started together the differences are the same, and are told once."""
    of: dict[str, list[str]] = {}
    for name, found in others.items():
        of.setdefault("; ".join(found), []).append(name)
    told = [f"{', '.join(names)} ({found})" for found, names in of.items()]
    return (
        f"services run with another configuration than {stack.config_path}: {' and '.join(told)}. Nothing was started or"
        " stopped: `rillet up --restart` restarts them one after the other with this one"
    )


def _roll(
    stack: Stack, services: Sequence[str], others: list[str], say: Callable[[str], None], started: list[str]
) -> None:
    """Restarts services that run with another configuration and starts those that do not run, in this order.

    Each once the one before it is ready: the server goes on with the model that it has until there is one for the new one.
    """
    for at, name in enumerate(services):
        if name in others:
            say(f"{name:7} stopping, to be started with this configuration")
            stack.stop(name)
        _start_service(stack, name, say, started)
        try:
            _wait_ready(stack, name, say)
        except ServiceError as error:
            left = [other for other in services[at + 1 :] if other in others]
            if not left:
                raise
            raise ServiceError(
                f"{error}; {' and '.join(left)} {'was' if len(left) == 1 else 'were'} not restarted and still"
                f" {'runs' if len(left) == 1 else 'run'} with the configuration of before: `rillet up --restart` goes on"
            ) from error


@contextmanager
def _starting(stack: Stack, say: Callable[[str], None]) -> Iterator[None]:
    """One at a time: two would find that a service does not run, and start it twice."""
    path = stack.config.data_dir / "locks" / "up.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise unwritable(stack.config.data_dir, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another `rillet up` starts services of this data_dir: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start_broker(stack: Stack, say: Callable[[str], None]) -> None:
    servers = stack.config.kafka.bootstrap_servers
    if stack.start_broker(say):
        say(f"broker  started at {servers}, log {stack.broker.process.log}")
    elif stack.owns_broker:
        say(f"broker  runs already at {servers} (pid {stack.broker.process.pid})")
    else:
        say(f"broker  at {servers} answers and was not started from {stack.config.data_dir}: using it as it is")


def _start_service(stack: Stack, name: str, say: Callable[[str], None], started: list[str]) -> None:
    """:param started: gets the name before there is a process, so that an interrupt in between stops it."""
    pid = stack.process(name).pid
    if pid is not None:
        say(f"{name:7} runs already (pid {pid})")
        return
    started.append(name)
    stack.start(name)
    say(f"{name:7} starting (pid {stack.process(name).pid})")


def _wait_ready(stack: Stack, name: str, say: Callable[[str], None], beside: Sequence[str] = ()) -> None:
    stack.wait_ready(name, say=say, beside=beside)
    say(f"{name:7} ready (pid {stack.process(name).pid}), log {stack.process(name).log}")


def down(stack: Stack, say: Callable[[str], None], *, keep_broker: bool = False) -> None:
    """Stops what :func:`up` started, the broker last unless it is kept; what does not run is left alone."""
    for name in reversed(SERVICES):
        say(f"{name:7} {'stopped' if stack.stop(name) else 'was not running'}")
    if not stack.owns_broker:
        say("broker  was not running here")
    elif keep_broker:
        say("broker  runs on")
    else:
        stack.broker.stop()
        say("broker  stopped")

"""The demo's joiner: started so that it can be drained, how far it is behind, drained.

Flink commits its offsets to its consumer groups at each checkpoint; nothing but this reads them. From the lag
follow the driver's pace, so that a slow machine is driven slower, and the moment when the joiner may be drained.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topics import client_settings, topic_ends
from rillet.demo.errors import DemoError
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig
from rillet.jobs.toolchain import python_environment

_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 180.0
_DRAIN_TIMEOUT_S = 180.0
#: the joiner's consumer groups are this and the name of the table (``rillet.jobs.joiner_job.JobOptions``)
GROUP_PREFIX = "rillet-joiner"


class JoinerLag:
    """Reads the lag of one joiner; a context manager, not safe to share between threads."""

    def __init__(self, config: RilletConfig) -> None:
        kafka = config.kafka
        self._address = kafka.bootstrap_servers
        self._groups = {
            kafka.topics.features: Consumer(self._settings("features")),
            kafka.topics.actions: Consumer(self._settings("actions")),
        }

    def records(self) -> int:
        """Features and actions on their topics behind the joiner's last checkpoint.

        :raises BrokerUnavailableError: no broker answers.
        """
        behind = 0
        for topic, consumer in self._groups.items():
            ends = topic_ends(self._address, topic) or {}
            try:
                committed = consumer.committed([TopicPartition(topic, number) for number in ends], timeout=_TIMEOUT_S)
            except KafkaException as error:
                raise BrokerUnavailableError(
                    f"no Kafka broker answers at {self._address} ({error.args[0].str()})"
                ) from error
            # A partition that was never committed has a negative offset.
            behind += sum(ends[entry.partition][1] - max(entry.offset, ends[entry.partition][0]) for entry in committed)
        return behind

    def _settings(self, table: str) -> dict[str, object]:
        return client_settings(self._address, **{"group.id": f"{GROUP_PREFIX}-{table}", "enable.auto.commit": False})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for consumer in self._groups.values():
            consumer.close()


def next_rate(rate: float, target: float, lag_records: int) -> float:
    """Requests a second to drive at, given the rate now and the joiner's lag.

    Falls by a third a second while the joiner is more than five seconds' worth behind, else climbs by a tenth.
    """
    # A request is worth a feature event and about two actions.
    if lag_records > 15 * rate:
        return max(0.1 * target, rate * 0.67)
    return min(target, rate * 1.1)


def start_joiner(stack: Stack) -> None:
    """Starts the joiner so that a SIGTERM closes every open window (a drain) instead of keeping it for later."""
    command = [sys.executable, "-m", "rillet", "join", "--drain", "--config", str(stack.config_path)]
    stack.process("join").start(command, python_environment())


def wait_for_joiner(stack: Stack) -> None:
    """Waits for the first checkpoint: Flink calls a job running before its tasks are, and only tasks checkpoint.

    :raises ServiceError: it died, or took too long.
    """
    checkpoints = stack.config.data_dir / "joiner" / "checkpoints"
    stack.process("join").wait_until(lambda: any(checkpoints.glob("*/chk-*/_metadata")), _START_TIMEOUT_S)


def drain_joiner(stack: Stack) -> None:
    """Lets the joiner emit what is still open, commit it, and end.

    :raises DemoError: it failed, or did not end in time.
    """
    process = stack.process("join")
    started = time.monotonic()
    process.stop(timeout_s=_DRAIN_TIMEOUT_S)
    if time.monotonic() - started >= _DRAIN_TIMEOUT_S:
        raise DemoError(f"the joiner did not finish within {_DRAIN_TIMEOUT_S:.0f} s, see {process.log}")

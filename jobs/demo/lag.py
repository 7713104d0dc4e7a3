"""How far the joiner is behind: records on the raw topics that it has not joined and committed yet.

Flink commits its offsets to its consumer groups at each checkpoint; nothing but this reads them. From the lag
follow the driver's pace, so that a slow machine is driven slower, and the moment when the joiner may be drained.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from jobs.config import RilletConfig
from jobs.errors import BrokerUnavailableError
from jobs.kafka import client_settings, topic_ends

_TIMEOUT_S = 10.0
#: the joiner's consumer groups are this and the name of the table (``jobs.joiner_job.JobOptions``)
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

"""How far consumer groups are from the ends of their topics.

Flink commits the offsets of each checkpoint to its groups, so this is how much of the input is not yet covered by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.topics import topic_ends
from rillet.schemas import ClosedError


class GroupLag:
    """Reads the lag of groups that consume one topic each; not safe to share between threads."""

    def __init__(self, kafka: KafkaConnection | str, groups: Mapping[str, str], *, timeout_s: float = 10.0) -> None:
        """
        :param groups: topic to the consumer group that reads it.
        :param timeout_s: how long the broker may take for one answer.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._groups = dict(groups)
        self._timeout_s = timeout_s
        self._errors = BrokerErrors()
        self._consumers: dict[str, Consumer] = {}

    def start(self) -> None:
        """Makes the clients."""
        for topic, group in self._groups.items():
            settings = {"group.id": group, "enable.auto.commit": False}
            self._consumers[topic] = self._kafka.consumer(settings, self._errors)

    def records(self) -> int:
        """Records on the topics after the positions that the groups have committed; all of them where none is.

        :raises TopicError: a topic is missing.
        :raises BrokerRefusedError: the broker does not let us in, or not see a group.
        :raises BrokerUnavailableError: no broker answers.
        :raises ClosedError: not started, or closed.
        """
        if not self._consumers:
            raise ClosedError("the lag reader was not started, or is closed")
        lag = 0
        for topic, consumer in self._consumers.items():
            ends = topic_ends(self._kafka, topic, self._timeout_s)
            if ends is None:
                raise TopicError(f"topic {topic} on {self._kafka}: there is none; name it in [kafka.topics]")
            partitions = [TopicPartition(topic, number) for number in ends]
            try:
                committed = consumer.committed(partitions, timeout=self._timeout_s)
            except KafkaException as error:
                raise self._kafka.explain(error, self._errors) from error
            for entry in committed:
                first, end = ends[entry.partition]
                # A partition that was never committed has a negative offset.
                lag += end - max(entry.offset, first)
        return lag

    def close(self) -> None:
        """Leaves the broker."""
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

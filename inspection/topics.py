"""Reads topics for a person: the records that come from now on, and those of one request.

For people and not for services: it joins no group, commits nothing, and sees committed records only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, Message, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.topic_reader import TopicRecord, read_topic, topic_record
from rillet.connectors.topics import topic_ends

_POLL_S = 0.2


def find_records(
    kafka: KafkaConnection, topic: str, wanted: Callable[[TopicRecord], bool], *, look_through: int
) -> tuple[list[TopicRecord], int]:
    """The wanted ones among the newest ``look_through`` offsets of each partition, and how many older ones there are.

    :raises TopicError: there is no such topic. BrokerUnavailableError: no broker answers.
    """
    ends = topic_ends(kafka, topic)
    if ends is None:
        raise TopicError(f"topic {topic} on {kafka}: there is none yet; `rillet topics` makes it")
    start = {partition: max(first, end - look_through) for partition, (first, end) in ends.items()}
    older = sum(start[partition] - first for partition, (first, _) in ends.items())
    return [record for record in read_topic(kafka, topic, start=start) if wanted(record)], older


def follow(
    kafka: KafkaConnection, topic: str, positions: dict[int, int], say: Callable[[str], None]
) -> Iterator[TopicRecord]:
    """Records from ``positions`` on as they come, for ever.

    :param say: told when the broker goes away and when it is back; it is waited for.
    :raises TopicError: the topic or a position is gone.
    """
    errors = BrokerErrors()
    consumer = kafka.consumer(
        {
            "group.id": "rillet-read",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        },
        errors,
    )
    away = False
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in positions.items()])
        while True:
            message: Message | None = consumer.poll(_POLL_S)
            if errors.last is not None and not away:
                away = True
                say(f"the broker at {kafka} is away ({kafka.redact(errors.last.str())}); waiting")
            if message is None:
                continue
            if (error := message.error()) is not None:
                if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART or error.fatal():
                    raise TopicError(f"topic {topic} on {kafka}: {kafka.redact(error.str())}")
                continue
            if away:
                away = False
                say("the broker answers again")
            errors.clear()
            yield topic_record(message)
    finally:
        consumer.close()

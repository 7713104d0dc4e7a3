"""Reads what is newest on topics: the last records, what comes after them, and the records of one request.

For people and not for services: it joins no group, commits nothing, and sees committed records only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, Message, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.topic_reader import TopicRecord, read_topic, topic_record
from rillet.connectors.topics import topic_ends

_POLL_S = 0.2
_CONNECT_S = 2.0
#: a window that held too few records is read again with so many times more offsets
_WIDER = 8


def require_broker(kafka: KafkaConnection) -> None:
    """Returns if something listens at one of the broker's addresses.

    A client of Kafka waits for a broker that is away; somebody at a terminal wants to know at once.

    :raises BrokerUnavailableError: nothing does.
    """
    refused = ""
    for address in kafka.bootstrap_servers.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S):
                return
        except (OSError, ValueError) as error:
            refused = getattr(error, "strerror", None) or str(error)
    raise BrokerUnavailableError(
        f"no Kafka broker answers at {kafka} ({refused}): start one with `rillet up`, or set [kafka] bootstrap_servers"
    )


def newest_records(kafka: KafkaConnection, topic: str, count: int) -> tuple[list[TopicRecord], dict[int, int]]:
    """The records that came last, oldest first, and the offset of each partition at which they end.

    :raises TopicError: there is no such topic.
    :raises BrokerUnavailableError: no broker answers. BrokerRefusedError: it does not let us read.
    """
    ends = topic_ends(kafka, topic)
    if ends is None:
        raise TopicError(f"topic {topic} on {kafka}: there is none yet; `rillet topics` makes it")
    window, found = count, list[TopicRecord]()
    while count:
        # Offsets may hold no record: ends of transactions, and what was aborted.
        start = {partition: max(first, end - window) for partition, (first, end) in ends.items()}
        found = list(read_topic(kafka, topic, start=start))
        if len(found) >= count or all(start[partition] == first for partition, (first, _) in ends.items()):
            break
        window *= _WIDER
    positions = {partition: end for partition, (_, end) in ends.items()}
    for record in found:
        positions[record.partition] = max(positions.get(record.partition, 0), record.offset + 1)
    return found[-count:] if count else [], positions


def find_records(
    kafka: KafkaConnection, topic: str, wanted: Callable[[TopicRecord], bool], *, look_through: int
) -> tuple[list[TopicRecord], int]:
    """The wanted ones among the newest ``look_through`` offsets of each partition, and how many older ones there are.

    :raises TopicError: as :func:`newest_records`, BrokerUnavailableError likewise.
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

"""The newest records of a topic, for somebody who waits at a terminal: at once, or told at once that no broker is there."""

from __future__ import annotations

import socket

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.topic_reader import TopicRecord, read_topic
from rillet.connectors.topics import topic_ends

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
        f"no Kafka broker answers at {kafka} ({refused}): start one with `rillet up --broker-only`, or set [kafka] bootstrap_servers"
    )


def newest_records(kafka: KafkaConnection, topic: str, count: int) -> tuple[list[TopicRecord], dict[int, int]]:
    """The records that came last, oldest first, and the offset of each partition at which they end.

    :raises TopicError: there is no such topic.
    :raises BrokerUnavailableError: no broker answers. BrokerRefusedError: it does not let us read.
    """
    ends = topic_ends(kafka, topic)
    if ends is None:
        raise TopicError(
            f"topic {topic} on {kafka}: there is none yet; `rillet topics` makes it, or name another in [kafka.topics]"
        )
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

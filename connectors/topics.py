"""Whether a broker answers, and the topics on it: made, described, never deleted.

Every client call that can fail ends in an error that names the address.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from rillet.connectors.errors import BrokerUnavailableError, TopicError

_QUIET: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: None}


def client_settings(bootstrap_servers: str, **more: Any) -> dict[str, Any]:
    """Settings shared by all clients; librdkafka's own prints are off, errors reach the caller as exceptions."""
    return {"bootstrap.servers": bootstrap_servers, **_QUIET, **more}


def ensure_broker(bootstrap_servers: str, timeout_s: float = 10.0) -> None:
    """Returns once a broker answers a metadata request.

    :raises BrokerUnavailableError: none does within ``timeout_s``.
    """
    try:
        AdminClient(client_settings(bootstrap_servers)).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {bootstrap_servers} ({error.args[0].str()}): start one with `rillet up`, "
            f"or set [kafka] bootstrap_servers"
        ) from error


def create_topics(
    bootstrap_servers: str, partitions: Mapping[str, int], *, replication: int = 1, timeout_s: float = 30.0
) -> list[str]:
    """Makes the topics that are not there, kept for ever (recorded events have old timestamps).

    :param partitions: topic name to its number of partitions.
    :returns: the names that were made by this call.
    :raises TopicError: a topic exists with another number of partitions, or cannot be made.
    :raises BrokerUnavailableError: no broker answers.
    """
    ensure_broker(bootstrap_servers, timeout_s)
    admin = AdminClient(client_settings(bootstrap_servers))
    settings = {
        "retention.ms": "-1",
        "max.message.bytes": "16777216",
        # Flink stamps what a timer emits with the timer's time; a drain fires timers that lie in the future.
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    wanted = [NewTopic(name, count, replication, config=settings) for name, count in partitions.items()]
    made: list[str] = []
    for name, future in admin.create_topics(wanted, operation_timeout=timeout_s).items():
        try:
            future.result(timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(
                    f"topic {name} on {bootstrap_servers} cannot be made: {error.args[0].str()}"
                ) from error
        else:
            made.append(name)
    _await_topics(admin, partitions, bootstrap_servers, timeout_s)
    return made


def _await_topics(admin: AdminClient, partitions: Mapping[str, int], address: str, timeout_s: float) -> None:
    """A topic is made before every metadata cache has it: wait until each partition has a leader."""
    deadline = time.monotonic() + timeout_s
    while True:
        known = admin.list_topics(timeout=timeout_s).topics
        missing = [
            name
            for name in partitions
            if name not in known
            or known[name].error is not None
            or any(partition.leader < 0 for partition in known[name].partitions.values())
        ]
        if not missing:
            break
        if time.monotonic() > deadline:
            raise TopicError(f"topics {', '.join(missing)} on {address} have no leader after {timeout_s:.0f} s")
        time.sleep(0.05)
    for name, count in partitions.items():
        if (found := len(known[name].partitions)) != count:
            raise TopicError(
                f"topic {name} on {address} has {found} partitions, the configuration asks for {count}: "
                f"change [kafka], or name another topic"
            )


def topic_ends(bootstrap_servers: str, topic: str, timeout_s: float = 10.0) -> dict[int, tuple[int, int]] | None:
    """First and end offset of each partition; None when there is no such topic.

    :raises BrokerUnavailableError: no broker answers.
    """
    consumer = Consumer(client_settings(bootstrap_servers, **{"group.id": "rillet-status"}))
    try:
        metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if metadata.error is not None:
            return None
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout_s)
            for number in sorted(metadata.partitions)
        }
    except KafkaException as error:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {bootstrap_servers} ({error.args[0].str()}): start one with `rillet up`"
        ) from error
    finally:
        consumer.close()

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

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, TopicError
from rillet.connectors.limits import TOPIC_MAX_BYTES

_TRY_S = 0.5
_RETRY_S = 0.05


def ensure_broker(kafka: KafkaConnection | str, timeout_s: float = 10.0) -> None:
    """Returns once a broker answers a metadata request.

    :raises BrokerRefusedError: it answers and does not let us in; at once.
    :raises BrokerUnavailableError: none does within ``timeout_s``.
    """
    kafka, errors = KafkaConnection.of(kafka), BrokerErrors()
    _metadata(kafka, kafka.admin(errors), errors, timeout_s)


def create_topics(
    kafka: KafkaConnection | str, partitions: Mapping[str, int], *, replication: int = 1, timeout_s: float = 30.0
) -> list[str]:
    """Makes the topics that are not there, kept for ever (recorded events have old timestamps).

    Where all are there, no right to make topics is needed.

    :param partitions: topic name to its number of partitions.
    :returns: the names that were made by this call.
    :raises TopicError: a topic exists with another number of partitions, or cannot be made.
    :raises BrokerRefusedError: it does not let us in, or not make topics.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka, errors = KafkaConnection.of(kafka), BrokerErrors()
    admin = kafka.admin(errors)
    known = _metadata(kafka, admin, errors, timeout_s).topics
    settings = {
        "retention.ms": "-1",
        "max.message.bytes": str(TOPIC_MAX_BYTES),
        # Flink stamps what a timer emits with the timer's time; a drain fires timers that lie in the future.
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    wanted = [
        NewTopic(name, count, replication, config=settings) for name, count in partitions.items() if name not in known
    ]
    made: list[str] = []
    for name, future in admin.create_topics(wanted, operation_timeout=timeout_s).items() if wanted else ():
        try:
            future.result(timeout_s)
        except KafkaException as error:
            # Another service may have made it meanwhile.
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            explained = kafka.explain(error, errors)
            if isinstance(explained, BrokerRefusedError):
                raise BrokerRefusedError(f"topic {name} cannot be made: {explained}") from error
            text = kafka.redact(error.args[0].str())
            raise TopicError(f"topic {name} on {kafka} cannot be made: {text}") from error
        else:
            made.append(name)
    _await_topics(kafka, admin, errors, partitions, timeout_s)
    return made


def _await_topics(
    kafka: KafkaConnection, admin: AdminClient, errors: BrokerErrors, partitions: Mapping[str, int], timeout_s: float
) -> None:
    """A topic is made before every metadata cache has it: wait until each partition has a leader."""
    deadline = time.monotonic() + timeout_s
    while True:
        known = _metadata(kafka, admin, errors, timeout_s).topics
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
            raise TopicError(f"topics {', '.join(missing)} on {kafka} have no leader after {timeout_s:.0f} s")
        time.sleep(_RETRY_S)
    for name, count in partitions.items():
        if (found := len(known[name].partitions)) != count:
            raise TopicError(
                f"topic {name} on {kafka} has {found} partitions, the configuration asks for {count}: "
                f"change [kafka], or name another topic"
            )


def topic_ends(kafka: KafkaConnection | str, topic: str, timeout_s: float = 10.0) -> dict[int, tuple[int, int]] | None:
    """First and end offset of each partition; None when there is no such topic.

    :raises BrokerRefusedError: it does not let us in, or not see the topic.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka, errors = KafkaConnection.of(kafka), BrokerErrors()
    consumer = kafka.consumer({"group.id": "rillet-status"}, errors)
    try:
        metadata = _metadata(kafka, consumer, errors, timeout_s, topic).topics[topic]
        if metadata.error is not None:
            explained = kafka.explain(metadata.error)
            if isinstance(explained, BrokerRefusedError):
                raise explained
            return None
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout_s)
            for number in sorted(metadata.partitions)
        }
    except KafkaException as error:
        raise kafka.explain(error, errors) from error
    finally:
        consumer.close()


def _metadata(
    kafka: KafkaConnection,
    client: AdminClient | Consumer,
    errors: BrokerErrors,
    timeout_s: float,
    topic: str | None = None,
) -> Any:
    """Asks in short turns: why a broker does not answer is heard between them, and a refusal ends the waiting."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            if topic is None:
                return client.list_topics(timeout=max(min(left, _TRY_S), 0.01))
            return client.list_topics(topic, timeout=max(min(left, _TRY_S), 0.01))
        except KafkaException as error:
            client.poll(0)
            if errors.refusal is not None or time.monotonic() >= deadline:
                raise kafka.explain(error, errors) from error
            time.sleep(_RETRY_S)

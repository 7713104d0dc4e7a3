"""Whether a broker answers, and the topics on it: made, described, deleted.

Every client call that can fail ends in an error that names the address.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError, TopicError
from rillet.connectors.limits import TOPIC_MAX_BYTES

log = logging.getLogger(__name__)

_POLL_S = 0.05
#: seconds without an answer until it is told that a broker is waited for, and between two such lines
_TELL_AFTER_S, _TELL_EVERY_S = 1.0, 5.0
#: an id of 128 bits that are 0: the broker gives none
_NO_ID = str(Uuid(0, 0))
_NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
_NO_LEADER_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)

Answer = TypeVar("Answer")


def ensure_broker(kafka: KafkaConnection | str, timeout_s: float = 10.0) -> None:
    """Returns once a broker answers a metadata request.

    :raises BrokerRefusedError: it answers and does not let us in; at once.
    :raises BrokerUnavailableError: none does within ``timeout_s``.
    """
    kafka = KafkaConnection.of(kafka)
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(deadline - time.monotonic(), _POLL_S)
        try:
            ask_consumer(kafka, partial(_list_topics, timeout_s=left), silent=True)
        except BrokerUnavailableError:
            # Before the deadline only where a broker ended the connection, as one does that stops.
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def create_topics(
    kafka: KafkaConnection | str, partitions: Mapping[str, int], *, replication: int = 1, timeout_s: float = 30.0
) -> list[str]:
    """Makes those of the topics that do not exist, kept for ever (recorded events have old timestamps).

    Topics are looked up by name: the user needs rights to these topics only, and where all exist none to make any. One that
    exists keeps its number of partitions, whatever that is: no topic needs a certain number.

    :param partitions: topic name to its number of partitions, if it is made.
    :returns: the names that were made by this call.
    :raises TopicError: a topic is compacted, or cannot be made.
    :raises BrokerRefusedError: it does not let us in, not see a topic, or not make it.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka = KafkaConnection.of(kafka)
    deadline = time.monotonic() + timeout_s
    known = _describe(kafka, partitions, timeout_s)
    made = [
        name
        for name, count in partitions.items()
        if name not in known and _make(kafka, NewTopic(name, count, replication, config=_SETTINGS), timeout_s)
    ]
    while waiting := [name for name in partitions if name not in known or _lacks_leader(known[name])]:
        # A topic is made before every metadata cache has it: wait until each partition has a leader.
        left = deadline - time.monotonic()
        if left <= 0:
            raise TopicError(f"topics {', '.join(waiting)} on {kafka} have no leader after {timeout_s:.0f} s")
        time.sleep(_POLL_S)
        known = _describe(kafka, partitions, left)
    _check_settings(kafka, [name for name in partitions if name not in made], timeout_s)
    return made


def delete_topics(kafka: KafkaConnection | str, names: Sequence[str], *, timeout_s: float = 30.0) -> None:
    """Deletes those of the topics that exist, with their records, and returns once none is seen any more.

    :raises TopicError: a topic cannot be deleted, or is still there after ``timeout_s``.
    :raises BrokerRefusedError: it does not let us in, or not delete a topic.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka = KafkaConnection.of(kafka)
    deadline = time.monotonic() + timeout_s
    for name in _describe(kafka, names, timeout_s):
        errors = BrokerErrors()
        admin = kafka.admin(errors)
        request = admin.delete_topics([name], operation_timeout=timeout_s, request_timeout=timeout_s)[name]
        try:
            _ask(kafka, errors, admin, request.result)
        except KafkaException as error:
            if error.args[0].code() in _NOT_THERE:
                continue
            explained = kafka.explain(error, errors)
            if isinstance(explained, BrokerRefusedError):
                raise BrokerRefusedError(f"topic {name} cannot be deleted: {explained}") from error
            raise TopicError(f"topic {name} on {kafka} cannot be deleted: {error.args[0].str()}") from error
    while left := _describe(kafka, names, timeout_s):
        if time.monotonic() > deadline:
            raise TopicError(
                f"topics {', '.join(left)} on {kafka} are still there {timeout_s:.0f} s after their deletion"
            )
        time.sleep(_POLL_S)


#: of a topic that is made here
_SETTINGS = {
    "retention.ms": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(TOPIC_MAX_BYTES),
    # Flink stamps what a timer emits with the timer's time; a drain fires timers that lie in the future.
    "message.timestamp.after.max.ms": str(2**63 - 1),
}


def topic_ends(kafka: KafkaConnection | str, topic: str, timeout_s: float = 10.0) -> dict[int, tuple[int, int]] | None:
    """First and end offset of each partition; None when there is no such topic.

    :raises BrokerRefusedError: it does not let us in, or not see the topic.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka = KafkaConnection.of(kafka)
    return ask_consumer(kafka, lambda consumer: ends_by(kafka, consumer, topic, timeout_s))


def topic_ids(kafka: KafkaConnection | str, names: Sequence[str], timeout_s: float = 10.0) -> dict[str, str]:
    """The id that each topic was given when it was made: one of the same name that was made anew has another.

    A topic that is not there is waited for, since not every broker knows at once of one that was made just now.

    :returns: by name; an empty id where the broker gives none (before Kafka 2.8).
    :raises TopicError: there is no such topic.
    :raises BrokerRefusedError: it does not let us in, or not see a topic.
    :raises BrokerUnavailableError: no broker answers.
    """
    kafka, found = KafkaConnection.of(kafka), dict[str, str]()
    errors = BrokerErrors()
    admin = kafka.admin(errors)
    deadline = time.monotonic() + timeout_s
    while missing := [name for name in names if name not in found]:
        for name, request in admin.describe_topics(TopicCollection(missing), request_timeout=timeout_s).items():
            try:
                found[name] = str(_ask(kafka, errors, admin, request.result).topic_id).replace(_NO_ID, "")
            except KafkaException as error:
                if error.args[0].code() not in _NOT_THERE:
                    raise kafka.explain(error, errors) from error
                if time.monotonic() >= deadline:
                    raise TopicError(f"topic {name} on {kafka}: there is none; name it in [kafka.topics]") from error
                time.sleep(_POLL_S)
    return found


def ends_by(
    kafka: KafkaConnection, consumer: Consumer, topic: str, timeout_s: float
) -> dict[int, tuple[int, int]] | None:
    """:func:`topic_ends` by a consumer that is there already; its isolation level says which ends are meant.

    :raises BrokerRefusedError: the user may not see the topic.
    :raises KafkaException: the broker does not answer, or refuses.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if not _exists(kafka, metadata):
            return None
        numbers = sorted(metadata.partitions)
        try:
            first, end = (_offsets(consumer, topic, numbers, at, timeout_s) for at in (OFFSET_BEGINNING, OFFSET_END))
            return dict(zip(numbers, zip(first, end, strict=True), strict=True))
        except KafkaException as error:
            # For a moment after a topic was made, or a broker has come back, some do not know yet who leads a partition.
            if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() >= deadline_s:
                raise
            time.sleep(_POLL_S)


def _offsets(consumer: Consumer, topic: str, numbers: Sequence[int], at: int, timeout_s: float) -> list[int]:
    """First offsets or ends of partitions, in one request to each broker that leads some.

    ``Consumer.get_watermark_offsets`` makes two requests per partition, and subtasks of the joiner ask for all of them all the time.

    :param at: OFFSET_BEGINNING or OFFSET_END, which stand for times here.
    """
    found = consumer.offsets_for_times([TopicPartition(topic, number, at) for number in numbers], timeout=timeout_s)
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return [one.offset for one in found]


def _list_topics(consumer: Consumer, timeout_s: float) -> None:
    consumer.list_topics(timeout=timeout_s)


def _describe(kafka: KafkaConnection, names: Iterable[str], timeout_s: float) -> dict[str, Any]:
    """Metadata of those of the topics that exist."""

    def describe(consumer: Consumer) -> dict[str, Any]:
        found = {name: consumer.list_topics(name, timeout=timeout_s).topics[name] for name in names}
        return {name: metadata for name, metadata in found.items() if _exists(kafka, metadata)}

    return ask_consumer(kafka, describe)


def _exists(kafka: KafkaConnection, metadata: Any) -> bool:
    """:raises BrokerRefusedError: the user may not see the topic, so whether it exists is not known."""
    if metadata.error is None:
        return True
    if metadata.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise BrokerRefusedError(
            f"topic {metadata.topic} on {kafka} may not be seen by the user of [kafka.client]: "
            "give it the rights (ACLs) that its service needs"
        )
    # Other errors, such as LEADER_NOT_AVAILABLE: it exists, and its partitions say the rest.
    return metadata.error.code() not in _NOT_THERE


def _lacks_leader(metadata: Any) -> bool:
    return not metadata.partitions or any(partition.leader < 0 for partition in metadata.partitions.values())


def _make(kafka: KafkaConnection, topic: NewTopic, timeout_s: float) -> bool:
    """Whether the topic was made by this call rather than by another service meanwhile."""
    errors = BrokerErrors()
    admin = kafka.admin(errors)
    request = admin.create_topics([topic], operation_timeout=timeout_s, request_timeout=timeout_s)[topic.topic]
    try:
        _ask(kafka, errors, admin, request.result)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        explained = kafka.explain(error, errors)
        if isinstance(explained, BrokerRefusedError):
            raise BrokerRefusedError(f"topic {topic.topic} cannot be made: {explained}") from error
        text = kafka.redact(error.args[0].str())
        raise TopicError(f"topic {topic.topic} on {kafka} cannot be made: {text}") from error
    return True


def _check_settings(kafka: KafkaConnection, names: list[str], timeout_s: float) -> None:
    """Looks at the settings of topics that somebody else has made, as far as the user may.

    :raises TopicError: a topic is compacted.
    """
    errors = BrokerErrors()
    admin = kafka.admin(errors)
    for name in names:
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        request = admin.describe_configs([resource], request_timeout=timeout_s)[resource]
        try:
            settings = _ask(kafka, errors, admin, request.result)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                continue  # the right DescribeConfigs is not needed for anything else
            raise kafka.explain(error, errors) from error
        if "compact" in settings["cleanup.policy"].value:
            raise TopicError(
                f"topic {name} on {kafka} is compacted (cleanup.policy={settings['cleanup.policy'].value}), which "
                "loses records: keys are not unique; set cleanup.policy=delete"
            )
        if (limit := int(settings["max.message.bytes"].value)) < TOPIC_MAX_BYTES:
            log.warning(
                "topic %s on %s takes records up to %d bytes only: larger ones will be refused; set "
                "max.message.bytes=%d",
                name,
                kafka,
                limit,
                TOPIC_MAX_BYTES,
            )


def ask_consumer(kafka: KafkaConnection, work: Callable[[Consumer], Answer], *, silent: bool = False) -> Answer:
    """What a consumer made for this can tell; it joins no group.

    :param silent: do not tell that a broker is waited for: the caller does, or waits for seconds only.
    :raises BrokerRefusedError: the broker does not let us in; at once.
    :raises BrokerUnavailableError: no broker answers.
    """
    errors = BrokerErrors()
    # A consumer never makes a topic by asking for it. It joins no group.
    consumer = kafka.consumer({"group.id": "rillet-status"}, errors)
    try:
        return _ask(kafka, errors, consumer, lambda: work(consumer), silent=silent)
    except KafkaException as error:
        raise kafka.explain(error, errors) from error


def _ask(
    kafka: KafkaConnection,
    errors: BrokerErrors,
    client: AdminClient | Consumer,
    work: Callable[[], Answer],
    *,
    silent: bool = False,
) -> Answer:
    """The result of blocking requests, which have all the time that they were given; a consumer is closed afterwards.

    Why no broker answers is heard only while the client is polled, so the requests run on a thread of their own. A
    refused login ends the waiting; the thread then ends with its request's own time limit.
    """
    answer: Future[Answer] = Future()
    released = threading.Event()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # raised by the caller
            answer.set_exception(error)
        released.wait()
        if isinstance(client, Consumer):
            client.close()

    thread = threading.Thread(target=run, name="rillet-topics", daemon=True)
    thread.start()
    try:
        # A consumer hands out nothing while a metadata request of its own is on: an idle client listens beside it.
        listener = kafka.admin(errors) if isinstance(client, Consumer) else client
        tell_s = time.monotonic() + _TELL_AFTER_S
        while not _done(answer):
            listener.poll(0)
            if not silent and time.monotonic() >= tell_s:
                heard = f" ({kafka.redact(errors.last.str())})" if errors.last is not None else ""
                log.warning("no Kafka broker answers at %s yet%s: waiting for one", kafka, heard)
                tell_s += _TELL_EVERY_S
            if errors.refusal is not None:
                raise kafka.explain(errors.refusal, errors)
        client.poll(0)
    finally:
        released.set()
        if answer.done():
            thread.join()
    return answer.result()


def _done(answer: Future[Any]) -> bool:
    try:
        answer.exception(_POLL_S)
    except TimeoutError:
        return False
    return True

"""Reads a topic from its beginning (or given offsets) to its present end, in order of arrival.

Kafka keeps order within a partition only. Partitions are merged by the wall clock that the producer
stamped at send, and by event time where it stamped none. This is for recording and auditing, not for
serving: it has no group, commits nothing, and stops.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.limits import FETCH_BYTES
from rillet.connectors.producers import INGEST_HEADER
from rillet.connectors.topics import topic_ends
from rillet.schemas import NO_TIME_MS, RecordError, parse_ingest_ms

#: stands for an ``ingest_ms`` header that is no time; outside the range of times, so the record is a dead letter
UNREADABLE_MS = NO_TIME_MS - 1

_BATCH = 2_000
_POLL_S = 0.2
#: A broker that says nothing for so long while records are due is taken for dead.
_SILENCE_POLLS = 150


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """One record as the broker keeps it; times in epoch milliseconds, -1 where unknown.

    :param ingest_ms: of the last ``ingest_ms`` header; :data:`UNREADABLE_MS` if that is no time.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    ingest_ms: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


def read_topic(
    kafka: KafkaConnection | str, topic: str, *, start: Mapping[int, int] | None = None
) -> Iterator[TopicRecord]:
    """Committed records of all partitions up to the end that the topic had at the call.

    :param start: first offset of a partition; partitions not named are read from their beginning.
    :raises TopicError: there is no such topic, or a read failed.
    :raises BrokerRefusedError: the broker does not let us in, or not read the topic.
    :raises BrokerUnavailableError: no broker answers, or it falls silent.
    """
    kafka = KafkaConnection.of(kafka)
    ends = topic_ends(kafka, topic)
    if ends is None:
        raise TopicError(f"topic {topic} on {kafka}: there is none; name the topic in [kafka.topics]")
    partitions = [
        _read_partition(kafka, topic, number, max(first, (start or {}).get(number, first)), end)
        for number, (first, end) in ends.items()
    ]
    if len(partitions) == 1:
        yield from partitions[0]
    else:
        yield from heapq.merge(*partitions, key=_arrival)


def _arrival(record: TopicRecord) -> tuple[int, int]:
    # Many records share a millisecond of the wall clock; among them event time decides.
    return (record.ingest_ms if record.ingest_ms > NO_TIME_MS else record.timestamp_ms, record.timestamp_ms)


def _read_partition(kafka: KafkaConnection, topic: str, partition: int, first: int, end: int) -> Iterator[TopicRecord]:
    if first >= end:
        return
    errors = BrokerErrors()
    consumer = kafka.consumer(
        {
            "group.id": "rillet-read",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 2 * FETCH_BYTES >> 10,
            "fetch.message.max.bytes": FETCH_BYTES,
        },
        errors,
    )
    try:
        consumer.assign([TopicPartition(topic, partition, first)])
        silent = 0
        while True:
            messages: list[Message] = consumer.consume(_BATCH, timeout=_POLL_S)
            silent = 0 if messages else silent + 1
            if silent == _SILENCE_POLLS:
                if errors.last is not None:
                    raise kafka.explain(errors.last, errors)
                raise BrokerUnavailableError(
                    f"topic {topic}, partition {partition} on {kafka}: silent for {silent * _POLL_S:.0f} s"
                )
            for message in messages:
                error = message.error()
                if error is not None:
                    # The end of what is committed; past the last record there may be transaction markers.
                    if error.code() == KafkaError._PARTITION_EOF:
                        return
                    raise TopicError(f"topic {topic}, partition {partition} on {kafka}: {kafka.redact(error.str())}")
                offset = int(message.offset() or 0)
                if offset >= end:
                    return
                yield topic_record(message)
                if offset + 1 >= end:
                    return
    except KafkaException as error:
        raise kafka.explain(error, errors) from error
    finally:
        consumer.close()


def topic_record(message: Message) -> TopicRecord:
    """A message that the client read, as a record."""
    # The client gives a list of pairs, whatever else its stubs allow.
    headers: tuple[tuple[str, bytes | None], ...] = tuple(message.headers() or ())  # type: ignore[arg-type]
    return TopicRecord(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        message.key(),
        message.value(),
        int(message.timestamp()[1]),
        _ingest_ms(headers),
        headers,
    )


def _ingest_ms(headers: tuple[tuple[str, bytes | None], ...]) -> int:
    # The last, as in the map of headers that Flink's SQL has.
    try:
        return parse_ingest_ms(dict(headers).get(INGEST_HEADER))
    except RecordError:
        return UNREADABLE_MS

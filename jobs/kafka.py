"""The Kafka side of rillet: topics, and the producers of the two raw topics.

Every client call that can fail ends in an error that names the address. Producers never block a
server: what the bounded local queue cannot take, and what the broker did not acknowledge, is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from jobs.errors import BrokerUnavailableError, DeliveryError, TopicError
from schemas import ActionEvent, FeatureEvent, encode

#: Header of features and actions: wall clock of the producer at send, ASCII decimal milliseconds.
INGEST_HEADER = "ingest_ms"

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


class EventProducer:
    """Sends events of one topic without ever blocking the caller; safe to share between threads.

    The queue is bounded in records and bytes. A record that does not fit, and one that the broker did not
    acknowledge within ``timeout_s``, is lost to the topic: both are counted, and ``last_error`` says why.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        now_ms: Callable[[], int] | None = None,
        max_queue_records: int = 50_000,
        max_queue_bytes: int = 64 << 20,
        linger_ms: int = 5,
        timeout_s: float = 120.0,
    ) -> None:
        self.topic = topic
        self.queued = 0
        self.delivered = 0
        self.failed = 0
        self.rejected = 0
        self.last_error = ""
        self._address = bootstrap_servers
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._producer = Producer(
            client_settings(
                bootstrap_servers,
                **{
                    "enable.idempotence": True,
                    "linger.ms": linger_ms,
                    "queue.buffering.max.messages": max_queue_records,
                    "queue.buffering.max.kbytes": max(1, max_queue_bytes >> 10),
                    "message.timeout.ms": int(timeout_s * 1000),
                    "message.max.bytes": 16_000_000,
                    "compression.type": "lz4",
                },
            )
        )
        self._counts = threading.Lock()
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"{topic}-deliveries", daemon=True)
        self._poller.start()

    def append(self, event: FeatureEvent | ActionEvent) -> bool:
        """Queues one event: key request_id, the record's timestamp is the event's time.

        :returns: False when the queue is full; the event is then not sent and counted in ``rejected``.
        """
        try:
            self._producer.produce(
                self.topic,
                key=event.request_id.encode(),
                value=encode(event),
                timestamp=event.event_time_ms,
                headers=[(INGEST_HEADER, str(self._now_ms()).encode())],
                on_delivery=self._on_delivery,
            )
        except BufferError:
            with self._counts:
                self.rejected += 1
                self.last_error = f"the queue to {self._address} is full"
            return False
        with self._counts:
            self.queued += 1
        return True

    def __len__(self) -> int:
        """Records queued whose fate is not known yet."""
        with self._counts:
            return self.queued - self.delivered - self.failed

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything queued is acknowledged.

        :raises DeliveryError: it is not, or a record was lost since the producer was made.
        """
        self._producer.flush(timeout_s)
        if (left := len(self)) or self.failed or self.rejected:
            raise DeliveryError(
                f"topic {self.topic} on {self._address}: {left} records unacknowledged after {timeout_s:.0f} s, "
                f"{self.failed} failed, {self.rejected} not queued ({self.last_error or 'no answer'})"
            )

    def close(self, timeout_s: float = 10.0) -> None:
        """Gives what is queued ``timeout_s`` to go out, then ends; what is left is counted as failed."""
        self._producer.flush(timeout_s)
        self._closed.set()
        self._poller.join()
        left = len(self)
        with self._counts:
            self.failed += left

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        with self._counts:
            if error is None:
                self.delivered += 1
            else:
                self.failed += 1
                self.last_error = error.str()


class KafkaFeatureLog(EventProducer):
    """Where a server logs the features that it served."""


class ActionProducer(EventProducer):
    """Where an application reports what its users did."""

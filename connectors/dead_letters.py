"""The dead-letter topic: records that cannot be used, with the reason and where they came from."""

from __future__ import annotations

import base64
import json
import threading

from confluent_kafka import KafkaError, Message, Producer

from rillet.connectors.errors import DeliveryError
from rillet.connectors.topics import client_settings
from rillet.schemas import RecordError
from rillet.trainer import RawRecord

#: A letter has to fit into one record of the topic, in base64: of a longer record only so much is kept.
_LETTER_BYTES = 8 << 20

#: Letters waiting for the broker, in all; reading stops above it.
_QUEUE_BYTES = 64 << 20


class DeadLetters:
    """Sends refused records to the dead-letter topic. Safe to use from the reading thread.

    A letter is kept until the broker takes it, however long that lasts. One that the broker refuses for good is
    never passed over: every later :meth:`flush` fails, so no checkpoint gets behind the record.
    """

    def __init__(self, bootstrap_servers: str, topic: str, source_topic: str) -> None:
        self.sent = 0
        self._topic = topic
        self._source_topic = source_topic
        self._refused = ""
        self._closed = threading.Event()
        self._producer = Producer(
            client_settings(
                bootstrap_servers,
                **{
                    "enable.idempotence": True,
                    "linger.ms": 20,
                    "message.max.bytes": 16_000_000,
                    # For ever: the client would give a letter up after five minutes.
                    "message.timeout.ms": 0,
                    "queue.buffering.max.kbytes": _QUEUE_BYTES >> 10,
                },
            )
        )

    def send(self, record: RawRecord, error: RecordError) -> None:
        """Queues one record with the reason; waits while the queue is full.

        :raises DeliveryError: closed before there was room.
        """
        letter = {
            "reason": str(error),
            "topic": self._source_topic,
            "partition": record.partition,
            "offset": record.offset,
            "record_bytes": len(record.value),
            "record_base64": base64.b64encode(record.value[:_LETTER_BYTES]).decode(),
        }
        key = f"{self._source_topic}|{record.partition}|{record.offset}".encode()
        while True:
            try:
                self._producer.produce(self._topic, json.dumps(letter).encode(), key, on_delivery=self._on_delivery)
                break
            except BufferError:
                if self._closed.is_set():
                    raise DeliveryError(
                        f"topic {self._topic}: stopped before there was room for the letter on partition"
                        f" {record.partition} offset {record.offset}; it is read again after a restart"
                    ) from None
                self._producer.poll(0.1)
        self._producer.poll(0)
        self.sent += 1

    def flush(self, timeout_s: float) -> int:
        """Waits until all are acknowledged.

        :returns: how many still are not; they stay queued.
        :raises DeliveryError: the broker refused one for good; only a restart from the last checkpoint sends it again.
        """
        left = self._producer.flush(timeout_s)
        if self._refused:
            raise DeliveryError(
                f"topic {self._topic}: a dead letter was refused: {self._refused}; check that the topic exists and may"
                " be written, then restart"
            )
        return left

    def close(self) -> None:
        """No more letters: a ``send`` that waits gives up. What is queued stays for :meth:`flush`."""
        self._closed.set()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = error.str()

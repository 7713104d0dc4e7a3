"""The dead-letter topic: records that cannot be used, with the reason and where they came from."""

from __future__ import annotations

import base64
import json

from confluent_kafka import KafkaError, Message, Producer

from rillet.connectors.errors import DeliveryError
from rillet.connectors.topics import client_settings
from rillet.schemas import BackpressureError, ClosedError, FlushTimeoutError
from rillet.trainer import BadRecord

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
        self._closed = False
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

    def start(self) -> None:
        """Nothing to start: the client connects with the first letter."""

    def submit(self, bad: BadRecord, /) -> None:
        """Queues one record with the reason.

        :raises BackpressureError: the queue is full of letters that the broker has not taken.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError(f"the dead letters to topic {self._topic} are closed")
        record = bad.record
        letter = {
            "reason": str(bad.error),
            "topic": self._source_topic,
            "partition": record.partition,
            "offset": record.offset,
            "record_bytes": len(record.value),
            "record_base64": base64.b64encode(record.value[:_LETTER_BYTES]).decode(),
        }
        key = f"{self._source_topic}|{record.partition}|{record.offset}".encode()
        try:
            self._producer.produce(self._topic, json.dumps(letter).encode(), key, on_delivery=self._on_delivery)
        except BufferError as error:
            self._producer.poll(0)
            raise BackpressureError(f"topic {self._topic}: the queue of dead letters is full") from error
        self._producer.poll(0)
        self.sent += 1

    def flush(self, timeout_s: float) -> None:
        """Waits until all are acknowledged.

        :raises FlushTimeoutError: some are not; they stay queued.
        :raises DeliveryError: the broker refused one for good; only a restart from the last checkpoint sends it again.
        """
        left = self._producer.flush(timeout_s)
        if self._refused:
            raise DeliveryError(
                f"topic {self._topic}: a dead letter was refused: {self._refused}; check that the topic exists and may"
                " be written, then restart"
            )
        if left:
            raise FlushTimeoutError(f"topic {self._topic}: {left} dead letters wait for the broker")

    def close(self) -> None:
        """Takes no more letters. Those that were not flushed are given up: no checkpoint passed their records."""
        self._closed = True

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = error.str()

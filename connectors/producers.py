"""The producer of the two raw topics: features as they were served, and what users did.

It never blocks a server: what its bounded queue cannot take, and what the broker did not acknowledge, is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import DeliveryError
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.schemas import ActionEvent, BackpressureError, ClosedError, FeatureEvent, FlushTimeoutError, encode

#: Header of features and actions: wall clock of the producer at send, ASCII decimal milliseconds.
INGEST_HEADER = "ingest_ms"


class EventProducer:
    """Sends events to one topic without ever blocking the caller; safe to share between threads.

    A :class:`rillet.schemas.Sink`. The queue is bounded in records and bytes. A record that does not fit, and one
    that the broker did not acknowledge within ``timeout_s``, is lost to the topic: both are counted, and
    ``last_error`` says why.
    """

    def __init__(
        self,
        kafka: KafkaConnection | str,
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
        self._kafka = KafkaConnection.of(kafka)
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._settings = {
            "enable.idempotence": True,
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": max_queue_records,
            "queue.buffering.max.kbytes": max(1, max_queue_bytes >> 10),
            "message.timeout.ms": int(timeout_s * 1000),
            "message.max.bytes": RECORD_MAX_BYTES,
            "compression.type": "lz4",
        }
        self._errors = BrokerErrors()
        self._producer: Producer | None = None
        self._counts = threading.Lock()
        self._closed = threading.Event()
        self._poller: threading.Thread | None = None

    def start(self) -> None:
        """Begins to connect; an unreachable broker is no error here.

        :raises KafkaSettingsError: the client does not take the settings.
        """
        self._producer = producer = self._kafka.producer(self._settings, self._errors)
        self._poller = threading.Thread(
            target=self._poll, args=(producer,), name=f"{self.topic}-deliveries", daemon=True
        )
        self._poller.start()

    def submit(self, event: FeatureEvent | ActionEvent, /) -> None:
        """Queues one event: key request_id, the record's timestamp is the event's time.

        :raises BackpressureError: the queue is full. The event is not sent, and counted in ``rejected``.
        :raises DeliveryError: the event is larger than a record may be; counted in ``rejected``.
        :raises ClosedError: not started, or closed.
        """
        producer = self._open()
        try:
            producer.produce(
                self.topic,
                key=event.request_id.encode(),
                value=encode(event),
                timestamp=event.event_time_ms,
                headers=[(INGEST_HEADER, str(self._now_ms()).encode())],
                on_delivery=self._on_delivery,
            )
        except BufferError:
            self._reject(why := f"topic {self.topic}: the queue to {self._kafka} is full{self._trouble()}")
            raise BackpressureError(why) from None
        except KafkaException as error:
            text = error.args[0].str()
            self._reject(why := f"topic {self.topic}: the event of request {event.request_id} is refused: {text}")
            raise DeliveryError(why) from error
        with self._counts:
            self.queued += 1

    def __len__(self) -> int:
        """Records queued whose fate is not known yet."""
        with self._counts:
            return self.queued - self.delivered - self.failed

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything queued is acknowledged.

        :raises FlushTimeoutError: it is not, within ``timeout_s``; it stays queued.
        :raises DeliveryError: a record was lost since the producer was made.
        """
        if self._producer is not None:
            self._producer.flush(timeout_s)
        if self.failed:
            raise DeliveryError(f"topic {self.topic} on {self._kafka}: {self.failed} records lost ({self.last_error})")
        if left := len(self):
            raise FlushTimeoutError(
                f"topic {self.topic} on {self._kafka}: {left} records unacknowledged after {timeout_s:g} s"
                f"{self._trouble()}"
            )

    def close(self) -> None:
        """Ends at once; what is not acknowledged yet is given up and counted as failed."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        self._closed.set()
        if self._poller is not None:
            self._poller.join()
        producer.purge(in_queue=True, in_flight=True)
        producer.poll(0)
        left = len(self)
        with self._counts:
            self.failed += left

    def _open(self) -> Producer:
        if self._producer is None:
            raise ClosedError(f"topic {self.topic}: the producer was not started, or is closed")
        return self._producer

    def _reject(self, why: str) -> None:
        with self._counts:
            self.rejected += 1
            self.last_error = why

    def _trouble(self) -> str:
        """What the broker last complained of, to be added to a message."""
        error = self._errors.last
        return "" if error is None else f"; the broker last said: {self._kafka.redact(error.str())}"

    def _poll(self, producer: Producer) -> None:
        while not self._closed.is_set():
            producer.poll(0.1)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        with self._counts:
            if error is None:
                self.delivered += 1
                self._errors.clear()
            else:
                self.failed += 1
                self.last_error = error.str()

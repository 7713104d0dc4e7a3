"""Producers of the two raw topics: features as they were served, and what users did.

They never block a server: what the bounded local queue cannot take, and what the broker did not acknowledge,
is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, Message, Producer

from rillet.connectors.errors import DeliveryError
from rillet.connectors.topics import client_settings
from rillet.schemas import ActionEvent, BackpressureError, ClosedError, FeatureEvent, FlushTimeoutError, encode

#: Header of features and actions: wall clock of the producer at send, ASCII decimal milliseconds.
INGEST_HEADER = "ingest_ms"


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

    def start(self) -> None:
        """Nothing to start: the client connects with the first event."""

    def submit(self, event: FeatureEvent | ActionEvent, /) -> None:
        """Queues one event: key request_id, the record's timestamp is the event's time.

        :raises BackpressureError: the queue is full; the event is not sent, and counted in ``rejected``.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed.is_set():
            raise ClosedError(f"the producer of topic {self.topic} is closed")
        try:
            self._producer.produce(
                self.topic,
                key=event.request_id.encode(),
                value=encode(event),
                timestamp=event.event_time_ms,
                headers=[(INGEST_HEADER, str(self._now_ms()).encode())],
                on_delivery=self._on_delivery,
            )
        except BufferError as error:
            with self._counts:
                self.rejected += 1
                self.last_error = f"the queue to {self._address} is full"
            raise BackpressureError(f"topic {self.topic}: {self.last_error}") from error
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
        self._producer.flush(timeout_s)
        if self.failed:
            raise DeliveryError(f"topic {self.topic} on {self._address}: {self.failed} lost ({self.last_error})")
        if left := len(self):
            raise FlushTimeoutError(
                f"topic {self.topic} on {self._address}: {left} records unacknowledged after {timeout_s:.0f} s"
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

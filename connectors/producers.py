"""The producer of the two raw topics: features as they were served, and what users did.

It never blocks a server: what its bounded queue cannot take, and what the broker did not acknowledge, is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import DeliveryError
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.schemas import (
    ActionEvent,
    BackpressureError,
    ClosedError,
    FeatureEvent,
    FlushTimeoutError,
    RilletError,
    encode,
)

#: Header of features and actions: wall clock of the producer at send, ASCII decimal milliseconds.
INGEST_HEADER = "ingest_ms"
_POLL_S = 0.1
#: Between a fatal error and the next client: some errors, such as missing rights, come back at once.
_RENEW_PAUSE_S = 0.5


class _Session:
    """One client of the broker; a fatal error ends it, and another takes its place."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        #: records queued here whose fate is not known yet
        self.waiting = 0
        #: its records are counted as failed, and none are taken
        self.ended = False


class EventProducer:
    """Sends events to one topic without ever blocking the caller; safe to share between threads.

        with EventProducer("127.0.0.1:9092", "actions") as actions:
            actions.submit(ActionEvent(request_id, now_ms, impression_id=42, action="watch"))

    A :class:`rillet.schemas.Sink`. The first submit starts it; the end of a ``with`` block flushes and closes it.
    The queue is bounded in records and bytes. A record that does not fit, and one that the broker did not acknowledge
    within ``timeout_s``, is lost to the topic. All are counted since the producer was made, in ``queued``,
    ``delivered``, ``failed`` and ``rejected``; ``last_error`` says why.

    A fatal error of the client (such as a broker that lost what it had acknowledged) fails what is queued. A new
    client takes its place within a second; until then, submits are rejected.
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
        self._reported = 0  # of ``failed``, by a flush
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
        # Held while a record is queued and counted: no acknowledgement is counted before its record. Reentrant,
        # because ending a session runs callbacks that count.
        self._lock = threading.RLock()
        self._session: _Session | None = None
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"{topic}-deliveries", daemon=True)

    def start(self) -> None:
        """Begins to connect; an unreachable broker is no error here. Once started, starting again does nothing.

        :raises KafkaSettingsError: the client does not take the settings.
        :raises ClosedError: after :meth:`close`.
        """
        with self._lock:
            self._open()

    def submit(self, event: FeatureEvent | ActionEvent, /) -> None:
        """Queues one event: key request_id, the record's timestamp is the event's time.

        :raises BackpressureError: the queue is full, or the client is replaced after a fatal error. The event is not
            sent, and counted in ``rejected``.
        :raises DeliveryError: the event is larger than a record may be; counted in ``rejected``.
        :raises ClosedError: after :meth:`close`.
        :raises KafkaSettingsError: as :meth:`start`.
        """
        value = encode(event)
        with self._lock:
            session = self._open()
            try:
                session.producer.produce(
                    self.topic,
                    key=event.request_id.encode(),
                    value=value,
                    timestamp=event.event_time_ms,
                    headers=[(INGEST_HEADER, str(self._now_ms()).encode())],
                    on_delivery=partial(self._on_delivery, session),
                )
            except BufferError:
                why = f"topic {self.topic}: the queue to {self._kafka} is full{self._trouble()}"
                raise self._rejected(BackpressureError(why)) from None
            except KafkaException as error:
                cause = error.args[0]
                if session.ended or cause.fatal() or cause.code() == KafkaError._FATAL:
                    self._end(session, self._fatal(error))
                    why = f"topic {self.topic}: the client to {self._kafka} is being replaced ({cause.str()})"
                    raise self._rejected(BackpressureError(why)) from error
                why = f"topic {self.topic}: the event of request {event.request_id} is refused: {cause.str()}"
                raise self._rejected(DeliveryError(why)) from error
            self.queued += 1
            session.waiting += 1

    def __len__(self) -> int:
        """Records queued whose fate is not known yet."""
        with self._lock:
            return self.queued - self.delivered - self.failed

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until everything queued is acknowledged.

        :raises FlushTimeoutError: it is not, within ``timeout_s``; it stays queued. Losses are told once nothing is left.
        :raises DeliveryError: records were lost since the last flush; the totals stay in the counters.
        """
        session, left = self._session, 0
        if session is not None and not session.ended:
            try:
                left = session.producer.flush(timeout_s)
            except KafkaException as error:
                self._end(session, self._fatal(error))
        where = f"topic {self.topic} on {self._kafka}"
        if left:
            raise FlushTimeoutError(f"{where}: {left} records unacknowledged after {timeout_s:g} s{self._trouble()}")
        with self._lock:
            lost, self._reported = self.failed - self._reported, self.failed
        if lost:
            raise DeliveryError(f"{where}: {lost} records lost ({self.last_error})")

    def close(self) -> None:
        """Ends at once; what is not acknowledged yet is given up and counted as failed."""
        with self._lock:
            self._closed.set()
            session, self._session = self._session, None
        if session is not None:
            self._poller.join()
            self._end(session, "closed before they were acknowledged")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Flushes and closes.

        :raises RilletError: as :meth:`flush`; an error of the block itself goes first, with a note of this one.
        """
        try:
            self.flush()
        except RilletError as failure:
            if error is None:
                raise
            error.add_note(str(failure))
        finally:
            self.close()

    def _open(self) -> _Session:
        """The session, begun by the first who asks; to be called under the lock."""
        if self._closed.is_set():
            raise ClosedError(f"topic {self.topic}: the producer is closed")
        if self._session is None:
            self._session = self._connect()
            self._poller.start()
        return self._session

    def _connect(self) -> _Session:
        return _Session(self._kafka.producer(self._settings, self._errors))

    def _end(self, session: _Session, why: str) -> None:
        """Counts as failed what a session still holds; of use once."""
        with self._lock:
            if session.ended:
                return
            before = self.failed
            # A fatal error is raised by whichever call meets it first, and that is what ``why`` tells of.
            with suppress(KafkaException):
                session.producer.purge(in_queue=True, in_flight=True)
                session.producer.poll(0)
            session.ended = True
            self.failed += session.waiting
            session.waiting = 0
            if self.failed > before:
                self.last_error = why

    def _rejected(self, error: RilletError) -> RilletError:
        self.rejected += 1
        self.last_error = str(error)
        return error

    def _fatal(self, error: KafkaException) -> str:
        return f"fatal error: {self._kafka.redact(error.args[0].str())}"

    def _trouble(self) -> str:
        """What the broker last complained of, to be added to a message."""
        error = self._errors.last
        return "" if error is None else f"; the broker last said: {self._kafka.redact(error.str())}"

    def _poll(self) -> None:
        while (session := self._session) is not None:
            try:
                session.producer.poll(_POLL_S)
            except KafkaException as error:
                self._end(session, self._fatal(error))
            if session.ended and not self._closed.wait(_RENEW_PAUSE_S):
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            if not self._closed.is_set():
                try:
                    self._session = self._connect()
                # Of settings that were good before, such as a file that is gone: tried again after the next pause.
                except RilletError as error:
                    self.last_error = str(error)

    def _on_delivery(self, session: _Session, error: KafkaError | None, message: Message) -> None:
        with self._lock:
            if session.ended:
                return  # counted as failed already
            session.waiting -= 1
            if error is None:
                self.delivered += 1
                self._errors.clear()
            else:
                self.failed += 1
                self.last_error = error.str()

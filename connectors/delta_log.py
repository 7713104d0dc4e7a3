"""The delta log (``rillet.sync.log.DeltaLog``) on one partition of a Kafka topic.

The topic must delete by age, or never, and must not be compacted: a key names a table shard, not a row. Its
records are not written in transactions, so that positions have no holes at the end of the log.
"""

from __future__ import annotations

from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.schemas import BackpressureError, ClosedError
from rillet.sync import LogRecord, LogUnavailableError, PositionOutOfRangeError, SyncError

_OUT_OF_RANGE = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)


class KafkaDeltaLog:
    """Connects when first used. One thread may append and commit while another reads."""

    def __init__(
        self,
        kafka: KafkaConnection | str,
        topic: str,
        *,
        partition: int = 0,
        answer_timeout_s: float = 10.0,
        queue_bytes: int = 128 << 20,
        read_ahead_bytes: int = 32 << 20,
    ) -> None:
        """:param answer_timeout_s: how long the broker may take to answer where no other time is given.
        :param queue_bytes: of records appended and not yet acknowledged; above it ``append`` raises.
        :param read_ahead_bytes: of records fetched before they are asked for.
        """
        self.kafka = KafkaConnection.of(kafka)
        self.topic = topic
        self.partition = partition
        self._answer_timeout_s = answer_timeout_s
        self._queue_bytes = queue_bytes
        self._read_ahead_bytes = read_ahead_bytes
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._next: int | None = None
        self._delivery_error: KafkaError | None = None
        self._errors = BrokerErrors()
        self._closed = False

    def start(self) -> None:
        """Nothing to do: a connection is made when it is first needed."""

    # -- writing -------------------------------------------------------------------------------------------

    def append(self, key: bytes, value: bytes) -> None:
        """Queues a record.

        :raises BackpressureError: the queue is full.
        :raises LogUnavailableError: the producer is of no more use; the queue is emptied as by a failed :meth:`commit`.
        :raises SyncError: the record is larger than the topic takes.
        """
        producer = self._writing()
        try:
            # Takes note of what was acknowledged, which makes room.
            producer.poll(0)
            producer.produce(self.topic, value=value, key=key, partition=self.partition, on_delivery=self._on_delivery)
        except BufferError as error:
            raise BackpressureError(
                f"delta log {self.topic}[{self.partition}]: {len(producer)} records wait for the broker on "
                f"{self.kafka}; commit before appending more"
            ) from error
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise SyncError(
                    f"a block of {len(value)} bytes is more than topic {self.topic} takes: "
                    "lower [publisher] max_block_bytes"
                ) from error
            self._discard()
            raise self._unavailable(error.args[0].str()) from error

    def commit(self, timeout_s: float) -> None:
        """Returns once everything queued is acknowledged by all in-sync replicas.

        :raises LogUnavailableError: not all was, in time. The queue is emptied; what had been sent may still arrive.
        """
        self._refuse_if_closed()
        if self._producer is None:
            return
        try:
            left = self._producer.flush(timeout_s)
        except KafkaException as fatal:
            self._discard()
            raise self._unavailable(fatal.args[0].str()) from fatal
        error = self._delivery_error
        if not left and error is None:
            self._errors.clear()
            return
        self._discard()
        if error is not None:
            raise self._unavailable(f"refused a record: {error.str()}")
        raise self._unavailable(f"did not acknowledge {left} records within {timeout_s:g} s")

    def _writing(self) -> Producer:
        self._refuse_if_closed()
        if self._producer is None:
            self._delivery_error = None
            self._producer = self.kafka.producer(
                {
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 1,
                    "message.max.bytes": RECORD_MAX_BYTES,
                    "queue.buffering.max.kbytes": max(self._queue_bytes >> 10, 1),
                },
                self._errors,
            )
        return self._producer

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and self._delivery_error is None:
            self._delivery_error = error

    def _discard(self) -> None:
        """Empties the queue and drops the producer: one whose in-flight records were purged is of no more use."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(in_queue=True, in_flight=True)
            # Only to hear of what was purged; a fatal error that it raises again is known already.
            with suppress(KafkaException):
                producer.poll(0)

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        """Up to ``max_records`` records from ``position`` on, as soon as there is one.

        An unreachable broker looks like an empty log here; :meth:`end` tells them apart.

        :raises PositionOutOfRangeError: the log does not hold ``position``.
        :raises LogUnavailableError: the broker answers with an error.
        """
        consumer = self._reading()
        if position != self._next:
            self._next = None
            begin, end = self._bounds()
            if not begin <= position <= end:
                raise PositionOutOfRangeError(position, begin, end)
            consumer.assign([TopicPartition(self.topic, self.partition, position)])
            self._next = position
        try:
            first = consumer.poll(timeout_s)
            if first is None:
                return []
            messages = [first] if max_records == 1 else [first, *consumer.consume(max_records - 1, 0)]
        except KafkaException as fatal:
            self._next = None
            raise self._unavailable(fatal.args[0].str()) from fatal
        self._errors.clear()
        records: list[LogRecord] = []
        for message in messages:
            if (error := message.error()) is not None:
                self._next = None
                if records:
                    break
                if error.code() in _OUT_OF_RANGE:
                    raise PositionOutOfRangeError(position, *self._bounds())
                raise self._unavailable(error.str())
            offset = message.offset()
            assert offset is not None  # noqa: S101  # only a message not from a broker has none
            records.append(LogRecord(offset, message.key() or b"", message.value() or b""))
        if self._next is not None:
            self._next = records[-1].position + 1
        return records

    def begin(self) -> int:
        """Offset of the oldest record kept."""
        return self._bounds()[0]

    def end(self) -> int:
        """Offset after the newest acknowledged record."""
        return self._bounds()[1]

    def close(self) -> None:
        """Closes both connections; what is queued and not committed is given up."""
        self._closed = True
        self._discard()
        consumer, self._consumer = self._consumer, None
        self._next = None
        if consumer is not None:
            consumer.close()

    def __enter__(self) -> KafkaDeltaLog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reading(self) -> Consumer:
        self._refuse_if_closed()
        if self._consumer is None:
            self._consumer = self.kafka.consumer(
                {
                    # Partitions are assigned by hand: the name is required and never joins a group.
                    "group.id": "rillet-deltas",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "check.crcs": True,
                    # A larger message than this still comes, alone.
                    "fetch.message.max.bytes": min(self._read_ahead_bytes, RECORD_MAX_BYTES),
                    "queued.max.messages.kbytes": max(self._read_ahead_bytes >> 10, 1),
                },
                self._errors,
            )
        return self._consumer

    def _bounds(self) -> tuple[int, int]:
        consumer = self._reading()
        try:
            bounds: tuple[int, int] | None = consumer.get_watermark_offsets(
                TopicPartition(self.topic, self.partition), timeout=self._answer_timeout_s, cached=False
            )
        except KafkaException as error:
            # The client says only that nobody answered; why not is heard when it is polled, which may also give a
            # record: the next read begins anew.
            self._next = None
            with suppress(KafkaException):
                consumer.poll(0)
            raise self._unavailable(error.args[0].str()) from error
        if bounds is None:
            raise self._unavailable(f"did not answer within {self._answer_timeout_s:g} s")
        return bounds

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ClosedError(f"delta log {self.topic}[{self.partition}] on {self.kafka} was closed")

    def _unavailable(self, what: str) -> LogUnavailableError:
        last = self._errors.last
        said = "" if last is None else f" (the broker last said: {self.kafka.redact(last.str())})"
        return LogUnavailableError(
            f"delta log {self.topic}[{self.partition}] on {self.kafka}: {what}{said}; "
            f"check that the broker runs and has the topic (`rillet up`), and [kafka.client]"
        )

"""The dead-letter topic: letters written to it, read back, and repaired records sent again.

A letter (:class:`rillet.schemas.DeadLetter`) is a refused record with the reason and its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import DeliveryError, IncompleteResendError, ResendError
from rillet.connectors.limits import LETTER_BYTES, RECORD_MAX_BYTES
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import (
    NO_TIME_MS,
    ActionEvent,
    BackpressureError,
    ClosedError,
    DeadLetter,
    DecodeError,
    FeatureEvent,
    FlushTimeoutError,
    RecordError,
    dead_letter,
    decode,
    decode_dead_letter,
    encode_dead_letter,
)

if TYPE_CHECKING:  # PyTorch comes with it, which a joiner has no use for
    from rillet.trainer import BadRecord

#: how soon a flush sees that what it waits for was acknowledged, while later letters are on their way
_LOOK_S = 0.05


def letter_for(
    error: RecordError,
    topic: str,
    partition: int,
    offset: int,
    *,
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int = NO_TIME_MS,
    headers: Sequence[tuple[str, bytes | None]] | None = None,
    more_headers: bool = False,
    row: int | None = None,
) -> DeadLetter:
    """The letter for a record that was refused just now, cut where it could not be written otherwise.

    :param error: why; its message is the letter's reason.
    :param timestamp_ms: of the record, where it is known.
    :param headers: of the record, where they are known.
    :param more_headers: whether it had others.
    :param row: the row that was refused of the record, which then holds this row alone.
    """
    return dead_letter(
        str(error),
        topic,
        partition,
        offset,
        key=key,
        value=value,
        now_ms=time.time_ns() // 1_000_000,
        max_bytes=LETTER_BYTES,
        timestamp_ms=timestamp_ms,
        headers=headers,
        more_headers=more_headers,
        row=row,
    )


def letter_for_example(bad: BadRecord, topic: str, files: str | None = None) -> DeadLetter:
    """The letter for a record of examples, or one row of it.

    :param topic: that it was read from, or would have gone to.
    :param files: address of the files that it was read from instead; the reason begins with it. The letter names no
        partition then (-1), and is sent again to any.
    """
    record = bad.record
    error = bad.error if files is None else RecordError(f"{files}: {bad.error}")
    return letter_for(error, topic, record.partition, record.offset, key=record.key, value=record.value, row=bad.row)


class DeadLetterProducer:
    """Sends letters to the dead-letter topic; a :class:`rillet.schemas.Sink`, safe to use from several threads.

    A letter is kept until the broker takes it, however long that lasts. One that the broker refuses for good is
    never passed over: every later :meth:`flush` fails, so no checkpoint gets past the record.
    """

    def __init__(self, kafka: KafkaConnection | str, topic: str, *, queue_bytes: int = 64 << 20) -> None:
        """:param queue_bytes: of letters that wait for the broker; above it ``submit`` raises."""
        self._queue_bytes = queue_bytes
        self.sent = 0
        #: letters that were given up by :meth:`close`
        self.failed = 0
        #: numbers of the letters that are neither acknowledged nor refused, from 1 on, ascending
        self._open: dict[int, None] = {}
        self._counts = threading.Lock()
        self._topic = topic
        self._kafka = KafkaConnection.of(kafka)
        self._refused = ""
        self._errors = BrokerErrors()
        self._producer: Producer | None = None

    def start(self) -> None:
        """Begins to connect; an unreachable broker is no error here.

        :raises KafkaSettingsError: the client does not take the settings.
        """
        self._producer = self._kafka.producer(
            {
                "enable.idempotence": True,
                "linger.ms": 20,
                "message.max.bytes": RECORD_MAX_BYTES,
                # For ever: the client would give a letter up after five minutes.
                "message.timeout.ms": 0,
                "queue.buffering.max.kbytes": max(self._queue_bytes >> 10, 1),
            },
            self._errors,
        )

    def submit(self, letter: DeadLetter, /) -> None:
        """Queues one letter.

        :raises BackpressureError: the queue is full.
        :raises DeliveryError: the producer is of no more use; only a restart from the last checkpoint mends it.
        :raises ClosedError: not started, or closed.
        """
        producer = self._producer
        if producer is None:
            raise ClosedError(f"topic {self._topic}: the producer was not started, or is closed")
        try:
            producer.poll(0)
            with self._counts:  # not between the two, where another thread may settle it
                number = self.sent + 1
                producer.produce(
                    self._topic,
                    encode_dead_letter(letter),
                    letter.letter_key,
                    on_delivery=partial(self._on_delivery, number),
                )
                self.sent = number
                self._open[number] = None
        except BufferError:
            raise BackpressureError(f"topic {self._topic}: no room for the letter on {letter.place}") from None
        except KafkaException as error:
            self._refused = error.args[0].str()
            raise self._refusal() from error

    def flush(self, timeout_s: float) -> None:
        """Waits until all letters submitted before are acknowledged, not for those that other threads submit meanwhile.

        :raises FlushTimeoutError: not within ``timeout_s``; they stay queued.
        :raises DeliveryError: the broker refused one for good; only a restart from the last checkpoint sends it again.
        """
        last_number = self.sent
        end = time.monotonic() + timeout_s
        # Another thread may close it meanwhile.
        while (producer := self._producer) is not None:
            left_s = max(end - time.monotonic(), 0.0)
            try:
                # The client's own flush ends when nothing waits at all, and that may never be.
                producer.flush(min(left_s, _LOOK_S))
            except KafkaException as error:
                self._refused = error.args[0].str()
            if self._refused or not left_s or not self._waiting(last_number):
                break
        if self._refused:
            raise self._refusal()
        if left := self._waiting(last_number):
            last = self._errors.last
            why = "" if last is None else f" ({self._kafka.redact(last.str())})"
            raise FlushTimeoutError(f"topic {self._topic} on {self._kafka}: {left} dead letters wait{why}")

    def close(self) -> None:
        """Ends at once; letters that are not acknowledged are given up and counted in ``failed``."""
        with self._counts:
            producer, self._producer = self._producer, None
            if producer is not None:
                self.failed = len(self._open)
        if producer is not None:
            producer.purge(in_queue=True, in_flight=True)
            # A fatal error that it raises again has been raised by submit or flush, or concerns nothing any more.
            with suppress(KafkaException):
                producer.poll(0)

    def _waiting(self, last_number: int) -> int:
        """Letters up to a number that are neither acknowledged nor refused; the client's own count has its events in it."""
        with self._counts:
            return sum(number <= last_number for number in self._open)

    def _refusal(self) -> DeliveryError:
        return DeliveryError(
            f"topic {self._topic}: a dead letter was refused: {self._kafka.redact(self._refused)}; check that the topic"
            " exists and may be written, then restart"
        )

    def _on_delivery(self, number: int, error: KafkaError | None, message: Message) -> None:
        with self._counts:
            if self._producer is None:  # what close gave up is no refusal
                return
            del self._open[number]
        if error is None:
            self._errors.clear()
        else:
            self._refused = error.str()


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A record of the dead-letter topic: either a letter, or why it is none."""

    partition: int
    offset: int
    letter: DeadLetter | None
    error: DecodeError | None = None


def read_dead_letters(
    kafka: KafkaConnection | str, topic: str, *, start: Mapping[int, int] | None = None
) -> Iterator[StoredLetter]:
    """All records that are on the dead-letter topic at the call, oldest first; one that is no letter has its error.

    :param start: first offset of a partition, such as the one after the last that was handled; a partition not named
        is read from its beginning.
    :raises TopicError: there is no such topic.
    :raises BrokerUnavailableError: no broker answers.
    """
    for record in read_topic(kafka, topic, start=start):
        try:
            yield StoredLetter(record.partition, record.offset, decode_dead_letter(record.value or b""))
        except DecodeError as error:
            where = f"topic {topic}, partition {record.partition}, offset {record.offset}"
            yield StoredLetter(record.partition, record.offset, None, DecodeError(f"{where}: {error}"))


def resend(kafka: KafkaConnection | str, letters: Iterable[DeadLetter], *, timeout_s: float = 60.0) -> int:
    """Sends the records of letters to the topics that they were read from, once what was wrong is mended.

    Mended may be the system (a spec that was missing), or the record: ``dataclasses.replace(letter, value=...)``.
    Each goes to its partition with the letter's key and headers. Its timestamp is the event time if it is a feature
    or an action, as with any producer of them, else the one that it had. Nothing is remembered: sending a letter
    twice makes two records.

    :returns: how many were sent, all of them acknowledged.
    :raises ResendError: a letter does not hold its whole record; nothing was sent then.
    :raises IncompleteResendError: the broker did not take them all within ``timeout_s``; it tells which it took.
    """
    letters = list(letters)
    for letter in letters:
        if letter.cut:
            raise ResendError(
                f"{letter.place}: the letter holds only a part of the record ({letter.value_bytes} bytes of value): "
                "take the record from the topic, and replace key, headers, value and cut"
            )
        if letter.more_headers:
            raise ResendError(
                f"{letter.place}: the record had more headers than its letter holds: take them from the topic and "
                "replace headers and more_headers, or replace more_headers alone to send it without them"
            )
    kafka, errors = KafkaConnection.of(kafka), BrokerErrors()
    acknowledged: set[int] = set()
    failures: list[str] = []

    def settle(number: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            acknowledged.add(number)
        else:
            failures.append(f"{letters[number].place}: {error.str()}")

    producer = kafka.producer({"enable.idempotence": True, "message.max.bytes": RECORD_MAX_BYTES}, errors)
    deadline = time.monotonic() + timeout_s
    for number, letter in enumerate(letters):
        try:
            _produce(producer, letter, partial(settle, number), deadline)
        except KafkaException as error:
            failures.append(f"{letter.place}: {error.args[0].str()}")
        except BackpressureError as error:
            failures.append(str(error))
            break
    with suppress(KafkaException):  # a fatal error: nothing more is acknowledged, which is reported below
        producer.flush(max(deadline - time.monotonic(), 0.1))
    if len(acknowledged) == len(letters):
        return len(letters)
    # What still waits must not arrive after it was reported.
    producer.purge(in_queue=True, in_flight=True)
    why = failures[0] if failures else "no answer" if errors.last is None else errors.last.str()
    raise IncompleteResendError(
        f"{len(letters) - len(acknowledged)} of {len(letters)} records were not sent again to {kafka}: "
        f"{kafka.redact(why)}; the error's `acknowledged` and `unacknowledged` hold the letters",
        acknowledged=[letter for number, letter in enumerate(letters) if number in acknowledged],
        unacknowledged=[letter for number, letter in enumerate(letters) if number not in acknowledged],
    )


def _produce(
    producer: Producer, letter: DeadLetter, on_delivery: Callable[[KafkaError | None, Message], None], deadline: float
) -> None:
    """Queues a letter's record, waiting for room until ``deadline``.

    :raises BackpressureError: there was none.
    """
    while True:
        try:
            producer.produce(
                letter.topic,
                letter.value,
                letter.key,
                letter.partition,
                timestamp=max(_timestamp_ms(letter), 0),  # 0: now
                headers=list(letter.headers or ()),
                on_delivery=on_delivery,
            )
        except BufferError:
            if time.monotonic() > deadline:
                raise BackpressureError(f"{letter.place}: there was no room to send it again") from None
            producer.poll(0.1)
        else:
            return


def _timestamp_ms(letter: DeadLetter) -> int:
    try:
        record = decode(letter.value or b"")
    except DecodeError:
        return letter.timestamp_ms
    return record.event_time_ms if isinstance(record, FeatureEvent | ActionEvent) else letter.timestamp_ms

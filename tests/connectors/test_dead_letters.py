"""Dead letters without a broker: what waits stays, what is refused stops the checkpoints, a stop is never held up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from rillet.connectors import dead_letters
from rillet.connectors.dead_letters import DeadLetters
from rillet.connectors.errors import DeliveryError
from rillet.schemas import BackpressureError, ClosedError, FlushTimeoutError, RecordError
from rillet.trainer import BadRecord, RawRecord

OnDelivery = Callable[[KafkaError | None, object], None]


class FakeProducer:
    """librdkafka's queue; each flush stands for time enough that a letter with a time limit is given up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.expires = settings.get("message.timeout.ms", 300_000) != 0
        self.away = self.full = False
        self.refusal: KafkaError | None = None
        self.queue: list[tuple[bytes, OnDelivery]] = []
        self.delivered: list[bytes] = []

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: OnDelivery) -> None:
        if self.full:
            raise BufferError
        self.queue.append((key, on_delivery))

    def poll(self, timeout_s: float) -> int:
        threading.Event().wait(timeout_s / 10)
        return 0

    def flush(self, timeout_s: float) -> int:
        if self.away and not self.expires:
            return len(self.queue)
        error = KafkaError(KafkaError._MSG_TIMED_OUT) if self.away else self.refusal
        queue, self.queue = self.queue, []
        for key, on_delivery in queue:
            if error is None:
                self.delivered.append(key)
            on_delivery(error, None)
        return 0


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> DeadLetters:
    monkeypatch.setattr(dead_letters, "Producer", FakeProducer)
    return DeadLetters("nowhere:9092", "dead", "examples")


def _send(letters: DeadLetters, offset: int) -> None:
    letters.submit(BadRecord(RawRecord(0, offset, b"noise"), RecordError("not a block")))


def _producer(letters: DeadLetters) -> FakeProducer:
    producer = letters._producer
    assert isinstance(producer, FakeProducer)
    return producer


def test_letters_outlive_any_outage_of_the_broker(letters: DeadLetters) -> None:
    producer = _producer(letters)
    producer.away = True
    _send(letters, 7)
    for _ in range(2):
        with pytest.raises(FlushTimeoutError, match="1 dead letters wait"):
            letters.flush(1.0)
    producer.away = False
    letters.flush(1.0)
    assert producer.delivered == [b"examples|0|7"]


def test_a_letter_refused_for_good_fails_every_later_flush(letters: DeadLetters) -> None:
    producer = _producer(letters)
    producer.refusal = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    _send(letters, 7)
    for _ in range(2):
        with pytest.raises(DeliveryError, match="topic dead: a dead letter was refused"):
            letters.flush(1.0)


def test_a_full_queue_takes_nothing(letters: DeadLetters) -> None:
    _producer(letters).full = True
    with pytest.raises(BackpressureError, match="queue of dead letters is full"):
        _send(letters, 7)
    assert letters.sent == 0


def test_nothing_is_taken_after_closing(letters: DeadLetters) -> None:
    letters.close()
    letters.close()
    with pytest.raises(ClosedError):
        _send(letters, 7)


def test_the_settings_are_ones_that_the_client_takes() -> None:
    letters = DeadLetters("127.0.0.1:1", "dead", "examples")
    _send(letters, 7)
    with pytest.raises(FlushTimeoutError, match="1 dead letters wait"):
        letters.flush(0.1)

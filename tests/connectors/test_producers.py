"""What an application can rely on when it sends events; the client of the broker is a fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import DeliveryError
from rillet.connectors.producers import EventProducer
from rillet.schemas import ActionEvent, BackpressureError, ClosedError, FlushTimeoutError

ACTION = ActionEvent("r", 1, 1, "like")
LOST = KafkaError(KafkaError._MSG_TIMED_OUT)
FATAL = KafkaError(KafkaError._FATAL, "sequence lost", fatal=True)


class FakeClient:
    """A librdkafka producer: ``outcome`` is what becomes of each record at the next poll; None leaves it queued."""

    def __init__(self) -> None:
        self.outcome: KafkaError | str | None = "delivered"
        self.fatal: KafkaError | None = None
        #: runs within ``produce``, after the record is queued
        self.queued: Callable[[], None] = lambda: None
        self._records: list[Callable[[KafkaError | None, Any], None]] = []

    def produce(self, topic: str, *, on_delivery: Callable[[KafkaError | None, Any], None], **record: Any) -> None:
        if self.fatal is not None:
            raise KafkaException(self.fatal)
        self._records.append(on_delivery)
        self.queued()

    def poll(self, timeout_s: float) -> int:
        if self.fatal is not None and self._records:
            raise KafkaException(self.fatal)
        while self.outcome is not None and self._records:
            self._records.pop(0)(self.outcome if isinstance(self.outcome, KafkaError) else None, None)
        time.sleep(min(timeout_s, 0.001))
        return 0

    def flush(self, timeout_s: float) -> int:
        deadline_s = time.monotonic() + timeout_s
        self.poll(0)
        while self._records and time.monotonic() < deadline_s:
            self.poll(0.001)
        return len(self._records)

    def purge(self, **what: bool) -> None:
        pass


@dataclass(frozen=True, slots=True, repr=False)
class FakeKafka(KafkaConnection):
    clients: list[FakeClient] = field(default_factory=list)

    def producer(self, settings: Any, errors: Any = None) -> Any:
        self.clients.append(FakeClient())
        return self.clients[-1]


@pytest.fixture
def kafka() -> FakeKafka:
    return FakeKafka("broker:9092")


def test_a_block_sends_everything_and_closes(kafka: FakeKafka) -> None:
    with EventProducer(kafka, "actions") as actions:
        actions.submit(ACTION)
    assert (actions.delivered, actions.failed, len(actions)) == (1, 0, 0)
    with pytest.raises(ClosedError, match="actions: the producer is closed"):
        actions.submit(ACTION)
    with pytest.raises(ClosedError):
        actions.start()


def test_a_block_that_fails_still_sends_and_keeps_its_error(kafka: FakeKafka) -> None:
    actions = EventProducer(kafka, "actions")

    def block() -> None:
        with actions:
            kafka.clients[0].outcome = LOST
            actions.submit(ACTION)
            raise KeyError("of the block")

    with pytest.raises(KeyError) as caught:
        block()
    assert "1 records lost" in caught.value.__notes__[0]
    assert len(actions) == 0


def test_starting_twice_makes_one_client(kafka: FakeKafka) -> None:
    with EventProducer(kafka, "actions") as actions:
        actions.start()
        actions.submit(ACTION)
    assert len(kafka.clients) == 1


def test_a_flush_reports_what_was_lost_since_the_last_one(kafka: FakeKafka) -> None:
    with EventProducer(kafka, "actions") as actions:
        kafka.clients[0].outcome = LOST
        actions.submit(ACTION)
        with pytest.raises(DeliveryError, match="1 records lost"):
            actions.flush(1)
        kafka.clients[0].outcome = "delivered"
        actions.submit(ACTION)
        actions.flush(1)
        assert (actions.queued, actions.delivered, actions.failed) == (2, 1, 1)


def test_an_old_loss_does_not_end_the_waiting_for_what_is_queued(kafka: FakeKafka) -> None:
    actions = EventProducer(kafka, "actions")
    actions.start()
    kafka.clients[0].outcome = LOST
    actions.submit(ACTION)
    while not actions.failed:
        time.sleep(0.001)
    kafka.clients[0].outcome = None
    actions.submit(ACTION)
    with pytest.raises(FlushTimeoutError, match="1 records unacknowledged"):
        actions.flush(0.01)
    kafka.clients[0].outcome = "delivered"
    with pytest.raises(DeliveryError, match="1 records lost"):
        actions.flush(1)
    assert (actions.delivered, actions.failed) == (1, 1)
    actions.close()


def test_closing_gives_up_what_is_queued(kafka: FakeKafka) -> None:
    actions = EventProducer(kafka, "actions")
    actions.start()
    kafka.clients[0].outcome = None
    actions.submit(ACTION)
    with pytest.raises(FlushTimeoutError, match="1 records unacknowledged"):
        actions.flush(0.01)
    actions.close()
    assert (actions.failed, len(actions)) == (1, 0)
    assert "closed" in actions.last_error


def test_an_acknowledgement_is_never_counted_before_its_record(kafka: FakeKafka) -> None:
    actions = EventProducer(kafka, "actions")
    actions.start()
    waiting: list[int] = []
    broker = threading.Thread(target=lambda: (kafka.clients[0].poll(0), waiting.append(len(actions))))

    def acknowledge() -> None:
        # The broker answers on another thread while this one is still within submit.
        broker.start()
        broker.join(0.05)

    kafka.clients[0].queued = acknowledge
    actions.submit(ACTION)
    actions.flush(1)
    broker.join(5)
    actions.close()
    assert waiting == [0]
    assert (actions.queued, actions.delivered, len(actions)) == (1, 1, 0)


def test_after_a_fatal_error_what_was_queued_is_lost_and_a_new_client_goes_on(kafka: FakeKafka) -> None:
    with EventProducer(kafka, "actions") as actions:
        kafka.clients[0].outcome = None
        actions.submit(ACTION)
        kafka.clients[0].fatal = FATAL
        deadline_s = time.monotonic() + 2
        while not actions.failed and time.monotonic() < deadline_s:
            time.sleep(0.001)
        with pytest.raises(BackpressureError, match=r"being replaced \(sequence lost\)"):
            actions.submit(ACTION)
        with pytest.raises(DeliveryError, match=r"1 records lost \(.*sequence lost"):
            actions.flush(1)
        while len(kafka.clients) == 1 and time.monotonic() < deadline_s:
            time.sleep(0.001)
        actions.submit(ACTION)
        actions.flush(1)
    assert (actions.queued, actions.delivered, actions.failed, actions.rejected) == (2, 1, 1, 1)

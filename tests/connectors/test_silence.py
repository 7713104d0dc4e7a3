"""Topics are silent when nothing comes and everything is read, and never when that is not known."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.lag import Ends
from rillet.connectors.silence import TopicSilence


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.integration
def test_topics_are_silent_when_all_is_read_and_nothing_comes(broker: str, topics: Callable[..., str]) -> None:
    topic, group = topics("features", 2), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer, consumer = connection.producer({}), connection.consumer({"group.id": group})

    def send() -> None:
        producer.produce(topic, b"v", partition=1)
        assert producer.flush(10) == 0

    def read_up_to(offset: int) -> None:
        consumer.commit(offsets=[TopicPartition(topic, 1, offset)], asynchronous=False)

    send()
    silence = TopicSilence(broker, {topic: group}, idle_ms=400)
    silence.start()
    try:
        time.sleep(1.2)
        assert silence.quiet_ms() is None, "a record is not read"
        read_up_to(1)
        wait_for(lambda: (silence.quiet_ms() or 0) > 800)
        send()
        wait_for(lambda: silence.quiet_ms() is None)
        read_up_to(2)
        wait_for(lambda: silence.quiet_ms() is not None)
    finally:
        silence.close()
    consumer.close()


@pytest.mark.integration
def test_topics_are_not_silent_while_a_transaction_is_open(broker: str, topics: Callable[..., str]) -> None:
    topic, group = topics("features", 1), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer, consumer = connection.producer({"transactional.id": group}), connection.consumer({"group.id": group})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b"v")
    producer.commit_transaction()
    consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    consumer.close()
    silence = TopicSilence(broker, {topic: group}, idle_ms=400)
    silence.start()
    try:
        wait_for(lambda: silence.quiet_ms() is not None)
        producer.begin_transaction()
        producer.produce(topic, b"v")
        assert producer.flush(10) == 0
        wait_for(lambda: silence.quiet_ms() is None)
        time.sleep(1)
        assert silence.quiet_ms() is None
    finally:
        silence.close()
    producer.abort_transaction()


def test_what_a_broker_was_away_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lag:
        away = False

        def __init__(self, *_: object, timeout_s: float) -> None:
            pass

        def __enter__(self) -> Lag:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def all_read(self) -> tuple[Ends, bool]:
            if Lag.away:
                raise BrokerUnavailableError("no broker answers")
            return {("features", 0): 1}, True

    monkeypatch.setattr("rillet.connectors.silence.GroupLag", Lag)
    silence = TopicSilence("nowhere", {"features": "g"}, idle_ms=40)
    silence.start()
    try:
        wait_for(lambda: silence.quiet_ms() is not None)
        Lag.away = True
        wait_for(lambda: silence.quiet_ms() is None)
        time.sleep(0.3)
        Lag.away = False
        wait_for(lambda: silence.quiet_ms() is not None)
        assert (silence.quiet_ms() or 0) < 200
    finally:
        silence.close()


def test_without_a_broker_nothing_is_known(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.connectors.silence._TIMEOUT_S", 0.2)
    silence = TopicSilence("127.0.0.1:1", {"features": "g"}, idle_ms=10)
    silence.start()
    try:
        wait_for(lambda: "whether the topics are silent is not known" in caplog.text)
        time.sleep(0.05)  # longer than the idle time
        assert silence.quiet_ms() is None
    finally:
        silence.close()

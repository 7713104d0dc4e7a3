"""Topics are silent when nothing comes and everything is read, and never when that is not known."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition

from rillet.connectors.connection import KafkaConnection
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

"""The topics without a real broker: librdkafka's own mock cluster, which lives in the process of its client."""

from __future__ import annotations

import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException

from rillet.connectors import topics
from rillet.connectors.config import KafkaConfig, Service, TopicNames
from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError
from rillet.connectors.topics import create_topics, ensure_broker, topic_ends


def mock_broker(round_trip_ms: int) -> KafkaConnection:
    return KafkaConnection("127.0.0.1:1", {"test.mock.num.brokers": "1", "test.mock.broker.rtt": str(round_trip_ms)})


@pytest.mark.integration
def test_a_broker_that_takes_longer_than_half_a_second_answers() -> None:
    ensure_broker(mock_broker(600), timeout_s=10.0)


def test_asking_for_a_topic_does_not_make_it() -> None:
    assert topic_ends(mock_broker(0), "examples") is None


def test_a_topic_that_may_not_be_seen_is_not_taken_for_missing() -> None:
    denied = SimpleNamespace(topic="deltas", error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), partitions={})
    with pytest.raises(BrokerRefusedError, match="topic deltas on k:9092 may not be seen by the user"):
        topics._exists(KafkaConnection("k:9092"), denied)


def consumer_of(partitions: int) -> MagicMock:
    """A consumer that knows a topic ``t``."""
    consumer = MagicMock()
    topic = SimpleNamespace(topic="t", error=None, partitions=dict.fromkeys(range(partitions)))
    consumer.list_topics.return_value.topics = {"t": topic}
    return consumer


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._UNKNOWN_PARTITION])
def test_a_partition_that_has_no_leader_for_a_moment_is_asked_again(code: int) -> None:
    consumer, refused = consumer_of(1), KafkaError(code)
    answers = [[SimpleNamespace(offset=offset, error=None)] for offset in (3, 5)]
    of_partition = [SimpleNamespace(offset=-1001, error=refused)]
    consumer.offsets_for_times.side_effect = [KafkaException(refused), of_partition, *answers]
    assert topics.ends_by(KafkaConnection("k:9092"), consumer, "t", 5.0) == {0: (3, 5)}
    consumer.offsets_for_times.side_effect = KafkaException(refused)
    with pytest.raises(KafkaException):
        topics.ends_by(KafkaConnection("k:9092"), consumer, "t", 0.0)


def test_the_ends_of_many_partitions_are_asked_for_at_once() -> None:
    """Each subtask of a joiner asks for all of them every few seconds."""
    consumer = consumer_of(500)
    consumer.offsets_for_times.side_effect = lambda asked, timeout: [
        SimpleNamespace(offset=one.partition + (7 if one.offset == OFFSET_END else 0), error=None) for one in asked
    ]
    found = topics.ends_by(KafkaConnection("k:9092"), consumer, "t", 5.0)
    assert found == {number: (number, number + 7) for number in range(500)}
    assert consumer.offsets_for_times.call_count == 2


def test_a_refused_login_ends_the_waiting() -> None:
    errors = BrokerErrors()
    connection = KafkaConnection("k:9092")
    errors(KafkaError(KafkaError._AUTHENTICATION, "invalid credentials"))
    begun = time.monotonic()
    with pytest.raises(BrokerRefusedError, match="invalid credentials"):
        topics._ask(connection, errors, connection.admin(errors), lambda: time.sleep(1.0))
    assert time.monotonic() - begun < 0.5


def test_a_service_that_waits_for_a_broker_says_so_and_says_it_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topics, "_TELL_AFTER_S", 0.1)
    monkeypatch.setattr(topics, "_TELL_EVERY_S", 0.1)
    with pytest.raises(BrokerUnavailableError):
        create_topics("127.0.0.1:1", {"examples": 1}, timeout_s=0.5)
    lines = [record.getMessage() for record in caplog.records]
    assert 2 <= len(lines) <= 5
    assert lines[-1].startswith("no Kafka broker answers at 127.0.0.1:1 yet (")
    assert "Connection refused" in lines[-1]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("join", {"F": 3, "A": 3, "E": 2, "dead_letters": 1}),
        ("train", {"E": 2, "deltas": 1, "dead_letters": 1}),
        ("serve", {"F": 3, "deltas": 1}),
        ("dump", {"E": 2, "dead_letters": 1}),
    ],
)
def test_a_service_asks_for_the_topics_that_it_reads_and_writes(service: Service, expected: dict[str, int]) -> None:
    names = TopicNames(features="F", actions="A", examples="E")
    assert KafkaConfig(topics=names, partitions=3, examples_partitions=2).topic_partitions_of(service) == expected

"""How far a group is from the ends of its topics, against a real broker; and a position."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.lag import GroupLag, PositionLag, TopicProgress
from rillet.schemas import ClosedError
from tests.connectors.mock_cluster import MockCluster


def test_a_reader_that_was_not_started_says_so() -> None:
    lag = GroupLag("127.0.0.1:1", {"features": "g"})
    with pytest.raises(ClosedError):
        lag.records()
    lag.close()


def test_a_broker_that_is_away_does_not_answer() -> None:
    with GroupLag("127.0.0.1:1", {"features": "join"}) as lag:
        assert not lag.answers(0.05)


def test_a_client_that_fails_while_it_looks_for_records_is_told_as_one_that_has_no_broker() -> None:
    """The thread that looks for silence would die of anything else, and no window close in silence any more."""
    consumer = MagicMock()
    consumer.assign.side_effect = KafkaException(KafkaError(KafkaError._STATE))
    lag = GroupLag("127.0.0.1:1", {"features": "join"})
    lag._consumers = {"features": consumer}
    with pytest.raises(BrokerUnavailableError, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        lag._has_record("features", {0: (0, 5)})
    assert consumer.unassign.called


def test_the_lag_of_a_position_counts_from_where_reading_began() -> None:
    lag = PositionLag({0: (2, 7), 1: (0, 3)})
    assert lag.records({}) == 5 + 3
    assert lag.records({0: (6, 0)}) == 1 + 3
    assert lag.records({0: (6, 0), 1: (2, 10)}) == 1 + 1


def test_what_ends_a_transaction_is_no_lag_once_the_end_was_reached() -> None:
    lag = PositionLag({0: (0, 0)})
    lag.end_is(0, 6)
    for offset in range(5):
        lag.given(0, offset)
    assert lag.records({0: (5, 0)}) == 1
    lag.reached_end(0, 6)
    lag.end_is(0, 6)
    assert lag.records({0: (5, 0)}) == 0
    lag.end_is(0, 8)
    assert lag.records({0: (5, 0)}) == 3


def test_an_end_that_is_unknown_and_partitions_that_are_not_read_change_nothing() -> None:
    lag = PositionLag({0: (0, 4)})
    lag.end_is(0, -1001)
    lag.end_is(1, 100)
    assert lag.records({}) == 4


def test_records_of_a_transaction_that_is_open_are_no_lag() -> None:
    lag = PositionLag({0: (0, 9)})
    lag.end_is(0, 4)
    assert lag.records({}) == 4


def test_what_a_reader_that_was_put_back_has_not_read_is_known_once_it_has_committed_something() -> None:
    """Its own state says where it goes on: until then all records would seem to be unread."""
    cluster = MockCluster("features")
    cluster.write("features", b"v", b"v", b"v")
    with GroupLag(cluster.bootstrap_servers, {"features": "join"}) as lag:
        assert lag.known_records() == 3, "nobody has read any"
        lag.forget()
        assert lag.known_records() is None
        assert lag.records() == 3
        consumer = KafkaConnection(cluster.bootstrap_servers).consumer({"group.id": "join"})
        consumer.commit(offsets=[TopicPartition("features", 0, 2)], asynchronous=False)
        consumer.close()
        assert lag.known_records() == 1, "of partitions without a record nothing is ever committed"


def test_a_group_has_read_what_it_has_committed_since_it_was_put_back() -> None:
    cluster = MockCluster("t")
    cluster.write("t", *[b"x"] * 5)
    with GroupLag(cluster.bootstrap_servers, {"t": "g"}) as lag:
        told = [lag.has_read()]
        consumer = KafkaConnection(cluster.bootstrap_servers).consumer({"group.id": "g"})
        consumer.commit(offsets=[TopicPartition("t", 0, 3)], asynchronous=False)
        told.append(lag.has_read())
        lag.forget()
        told.append(lag.has_read())
        consumer.close()
    assert told == [False, True, False]


@pytest.mark.integration
def test_the_lag_is_what_the_groups_have_not_committed(broker: str, topics: Callable[..., str]) -> None:
    features, actions, group = topics("features", 2), topics("actions", 1), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer = connection.producer({})
    for topic, partition, count in ((features, 0, 3), (features, 1, 2), (actions, 0, 4)):
        for _ in range(count):
            producer.produce(topic, b"v", partition=partition)
    assert producer.flush(10) == 0
    with GroupLag(broker, {features: group, actions: f"{group}-other"}) as lag:
        assert lag.answers()
        assert lag.records() == 9
        consumer = connection.consumer({"group.id": group})
        consumer.commit(offsets=[TopicPartition(features, 0, 3), TopicPartition(features, 1, 1)], asynchronous=False)
        consumer.close()
        assert lag.records() == 5


@pytest.mark.integration
def test_a_missing_topic_is_no_lag_of_zero(broker: str) -> None:
    with GroupLag(broker, {"never-made": "g"}) as lag, pytest.raises(TopicError, match="never-made"):
        lag.records()


@pytest.mark.integration
def test_a_group_has_reached_ends_when_no_record_is_left_before_them(broker: str, topics: Callable[..., str]) -> None:
    topic, group = topics("features", 2), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer = connection.producer({"transactional.id": group})
    producer.init_transactions()
    producer.begin_transaction()
    for _ in range(3):
        producer.produce(topic, b"v", partition=1)
    producer.commit_transaction()  # takes an offset of its own
    consumer = connection.consumer({"group.id": group})
    with GroupLag(broker, {topic: group}) as lag:
        ends = lag.ends()
        assert ends == {(topic, 0): 0, (topic, 1): 4}
        assert [lag.has_reached(ends) for _ in range(2)] == [False, False]
        consumer.commit(offsets=[TopicPartition(topic, 1, 3)], asynchronous=False)
        assert [lag.has_reached(ends) for _ in range(2)] == [False, True]
        producer.begin_transaction()
        producer.produce(topic, b"v", partition=0)
        producer.commit_transaction()
        assert lag.has_reached(ends)
        assert [lag.has_reached(lag.ends()) for _ in range(2)] == [False, False]
        lag.forget()
        assert [lag.has_reached(ends) for _ in range(2)] == [False, False]
    consumer.close()


@pytest.mark.integration
def test_partitions_that_end_without_a_record_are_told_together_and_once(
    broker: str, topics: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 48
    topic, group = topics("many", count), uuid.uuid4().hex
    connection = KafkaConnection(broker)
    producer, consumer = connection.producer({"transactional.id": group}), connection.consumer({"group.id": group})
    producer.init_transactions()
    producer.begin_transaction()
    for partition in range(count):
        producer.produce(topic, b"v", partition=partition)
    producer.commit_transaction()
    consumer.commit(offsets=[TopicPartition(topic, number, 1) for number in range(count)], asynchronous=False)
    consumer.close()
    with GroupLag(broker, {topic: group}) as lag:
        ends = lag.progress()[topic].ends
        began_s = time.monotonic()
        read = {topic: TopicProgress(ends, dict.fromkeys(ends, 1), True)}
        assert lag.progress() == read
        assert time.monotonic() - began_s < 8
        monkeypatch.setattr(lag, "_has_record", None)
        assert lag.progress() == read, "it is not asked again"

"""How far a group is from the ends of its topics, against a real broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.lag import GroupLag
from rillet.schemas import ClosedError


def test_a_reader_that_was_not_started_says_so() -> None:
    lag = GroupLag("127.0.0.1:1", {"features": "g"})
    with pytest.raises(ClosedError):
        lag.records()
    lag.close()


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
        assert lag.records() == 9
        consumer = connection.consumer({"group.id": group})
        consumer.commit(offsets=[TopicPartition(features, 0, 3), TopicPartition(features, 1, 1)], asynchronous=False)
        consumer.close()
        assert lag.records() == 5


@pytest.mark.integration
def test_a_missing_topic_is_no_lag_of_zero(broker: str) -> None:
    with GroupLag(broker, {"never-made": "g"}) as lag, pytest.raises(TopicError, match="never-made"):
        lag.records()

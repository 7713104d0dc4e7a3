from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import numpy as np
import pytest
from confluent_kafka import Message, TopicPartition
from confluent_kafka.admin import ConfigResource

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, DeliveryError, TopicError
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.connectors.producers import EventProducer
from rillet.connectors.topics import create_topics, delete_topics, ends_by, ensure_broker, topic_ends, topic_ids
from rillet.devstack.process import free_port
from rillet.schemas import ActionEvent, BackpressureError, ClosedError, FeatureEvent, decode_as

OLD_MS = 978_300_000_000  # recorded in December 2000


def feature(request_id: str) -> FeatureEvent:
    return FeatureEvent(request_id, OLD_MS, 7, np.array([1]), np.array([5, 6]), np.array([2, 3]))


def read(broker: str, topic: str, count: int) -> list[Message]:
    consumer = KafkaConnection(broker).consumer({"group.id": "test", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in topic_ends(broker, topic) or {}])
    messages: list[Message] = []
    deadline = time.monotonic() + 20
    while len(messages) < count and time.monotonic() < deadline:
        messages += consumer.consume(count, timeout=0.5)
    consumer.close()
    return messages


def test_an_unreachable_broker_is_named_in_one_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnavailableError, match=f"no Kafka broker answers at {address}") as caught:
        ensure_broker(address, timeout_s=0.3)
    assert "\n" not in str(caught.value)


def test_a_full_queue_never_blocks_the_server_and_counts_what_it_lost() -> None:
    producer = EventProducer(f"127.0.0.1:{free_port()}", "features", max_queue_records=3, timeout_s=1.0)
    producer.start()
    begun = time.monotonic()
    for i in range(3):
        producer.submit(feature(str(i)))
    for i in range(2):
        with pytest.raises(BackpressureError, match=r"features: the queue to .* is full"):
            producer.submit(feature(str(i)))
    assert time.monotonic() - begun < 0.2
    assert (producer.rejected, len(producer)) == (2, 3)
    producer.close()
    producer.close()
    assert (producer.failed, len(producer)) == (3, 0)
    with pytest.raises(ClosedError):
        producer.submit(feature("late"))


def test_a_producer_touches_nothing_before_its_first_event() -> None:
    before = set(threading.enumerate())
    producer = EventProducer("127.0.0.1:1", "features")
    producer.flush(0.1)
    assert set(threading.enumerate()) == before
    producer.submit(feature("first"))
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"features-deliveries"}
    producer.close()
    assert set(threading.enumerate()) == before


def test_an_event_larger_than_a_record_is_refused_and_counted() -> None:
    producer = EventProducer("127.0.0.1:1", "actions")
    producer.start()
    action = ActionEvent("r1", OLD_MS, 5, "like", action_id="a" * RECORD_MAX_BYTES)
    with pytest.raises(DeliveryError, match=r"request r1 is refused: .*too large"):
        producer.submit(action)
    assert producer.rejected == 1
    producer.close()


@pytest.mark.integration
def test_events_arrive_with_request_key_event_time_and_ingest_header(broker: str, topics: Callable[..., str]) -> None:
    name = topics("features", partitions=2)
    log = EventProducer(broker, name, now_ms=lambda: 1234)
    log.start()
    for i in range(20):
        log.submit(feature(f"r{i}"))
    log.flush()
    log.close()
    messages = read(broker, name, 20)
    assert log.delivered == 20
    assert sorted(m.key().decode() for m in messages) == sorted(f"r{i}" for i in range(20))
    for message in messages:
        assert message.timestamp()[1] == OLD_MS
        assert message.headers() == [("ingest_ms", b"1234")]
        assert decode_as(FeatureEvent, message.value()).request_id == message.key().decode()


@pytest.mark.integration
def test_actions_go_out_as_they_are(broker: str, topics: Callable[..., str]) -> None:
    name = topics("actions")
    producer = EventProducer(broker, name)
    producer.start()
    action = ActionEvent("r1", OLD_MS, 5, "like", value=0.5, action_id="a")
    producer.submit(action)
    producer.flush()
    producer.close()
    (message,) = read(broker, name, 1)
    assert decode_as(ActionEvent, message.value()) == action


@pytest.mark.integration
def test_a_record_for_a_missing_topic_is_counted_as_failed(broker: str) -> None:
    log = EventProducer(broker, "never-made", timeout_s=2.0)
    log.start()
    log.submit(feature("r"))
    with pytest.raises(DeliveryError, match="never-made"):
        log.flush(10)
    assert (log.delivered, log.failed) == (0, 1)
    log.close()


@pytest.mark.integration
def test_topics_are_made_once_and_keep_old_events(broker: str) -> None:
    wanted = {"once-features": 2, "once-deltas": 1}
    assert sorted(create_topics(broker, wanted)) == sorted(wanted)
    assert create_topics(broker, wanted) == []
    resource = ConfigResource(ConfigResource.Type.TOPIC, "once-features")
    admin = KafkaConnection(broker).admin()
    settings = admin.describe_configs([resource])[resource].result(10)
    assert settings["retention.ms"].value == "-1"
    assert topic_ends(broker, "once-features") == {0: (0, 0), 1: (0, 0)}
    assert topic_ends(broker, "no-such-topic") is None


@pytest.mark.integration
def test_topics_of_ones_own_may_have_any_number_of_partitions_each(broker: str, topics: Callable[..., str]) -> None:
    """[kafka] has one number for both raw topics, and none for others: what exists is taken as it is."""
    features, actions, deltas = topics("features", 3), topics("actions", 2), topics("deltas", 2)
    assert create_topics(broker, {features: 1, actions: 1, deltas: 1}) == []
    assert len(topic_ends(broker, features) or ()) == 3


@pytest.mark.integration
def test_a_topic_that_was_made_anew_has_another_id(broker: str, topics: Callable[..., str]) -> None:
    name, other = topics("features"), topics("actions")
    before = topic_ids(broker, [name, other])
    assert len(set(before.values())) == 2
    assert all(before.values())
    delete_topics(broker, [name])
    with pytest.raises(TopicError, match=f"topic {name} on .*: there is none"):
        topic_ids(broker, [name], timeout_s=0.5)
    create_topics(broker, {name: 1})
    after = topic_ids(broker, [name, other])
    assert (after[name] != before[name], after[other]) == (True, before[other])


@pytest.mark.integration
@pytest.mark.parametrize(("level", "open_end"), [("read_committed", 2), ("read_uncommitted", 3)])
def test_ends_asked_for_together_are_those_that_each_partition_has(
    broker: str, topics: Callable[..., str], level: str, open_end: int
) -> None:
    """Of one without records, one that begins later since its first were deleted, and one with an open transaction."""
    topic, connection = topics("ends", 3), KafkaConnection(broker)
    producer = connection.producer({"transactional.id": uuid.uuid4().hex})
    producer.init_transactions()
    producer.begin_transaction()
    for partition in (1, 2):
        producer.produce(topic, b"v", partition=partition)
    producer.commit_transaction()  # takes an offset of its own
    producer.begin_transaction()
    producer.produce(topic, b"v", partition=2)
    assert producer.flush(10) == 0
    admin = connection.admin(BrokerErrors())
    deletion = admin.delete_records([TopicPartition(topic, 1, 1)])
    assert [done.result(10).low_watermark for done in deletion.values()] == [1]
    consumer = connection.consumer({"group.id": topic, "isolation.level": level})
    try:
        found = ends_by(connection, consumer, topic, 10.0)
        assert found == {0: (0, 0), 1: (1, 2), 2: (0, open_end)}
        assert found == {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10) for n in found}
    finally:
        consumer.close()
        producer.abort_transaction()

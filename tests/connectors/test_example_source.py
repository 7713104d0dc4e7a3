"""The examples topic as a source, against a mock broker: what it says of trouble."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, Producer

from rillet.connectors import example_source
from rillet.connectors.example_source import KafkaExampleSource
from tests.connectors.mock_cluster import MockCluster


def test_trouble_ends_with_the_outage_though_the_topic_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_source, "_STATISTICS_MS", 50)
    cluster = MockCluster("examples")
    source = KafkaExampleSource(cluster.bootstrap_servers, "examples", {}, until_latest=False)
    source.start()
    source.poll(1, 0.1)
    source._errors(KafkaError(KafkaError._TRANSPORT, "connection reset"))
    source._wait_out(KafkaError(KafkaError._TRANSPORT, "connection reset"))
    assert source.trouble == "connection reset"
    deadline = time.monotonic() + 5.0
    while source.trouble:
        assert source.poll(10, 0.05) == []
        assert time.monotonic() < deadline, "still in trouble"
    source.close()


def test_a_leader_that_is_not_connected_is_still_trouble() -> None:
    source = KafkaExampleSource("127.0.0.1:1", "examples", {}, until_latest=False)
    source._wait_out(KafkaError(KafkaError._TRANSPORT, "connection reset"))
    partitions = '{"0": {"leader": 1, "ls_offset": 0}, "1": {"leader": 2, "ls_offset": -1001}, "-1": {"leader": -1}}'
    for state, trouble in (("CONNECT", "connection reset"), ("UP", "")):
        brokers = f'{{"a": {{"nodeid": 1, "state": "UP"}}, "b": {{"nodeid": 2, "state": "{state}"}}}}'
        source._on_statistics(f'{{"brokers": {brokers}, "topics": {{"examples": {{"partitions": {partitions}}}}}}}')
        assert source.trouble == trouble


def test_the_lag_follows_what_the_broker_says_of_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_source, "_STATISTICS_MS", 50)
    cluster = MockCluster("examples")
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})

    def produce(count: int) -> None:
        for _ in range(count):
            producer.produce("examples", b"v", partition=0)
        assert producer.flush(5) == 0

    produce(3)
    source = KafkaExampleSource(cluster.bootstrap_servers, "examples", {0: (1, 0)}, until_latest=False)
    assert source.lag({}) == 0
    source.start()
    assert (source.lag({}), source.lag({0: (1, 40)}), source.lag({0: (3, 0)})) == (2, 2, 0)
    produce(4)
    deadline = time.monotonic() + 10.0
    while source.lag({0: (3, 0)}) < 4:
        source.poll(1, 0.05)
        assert time.monotonic() < deadline, "the new end was not heard"
    source.close()
    assert source.lag({0: (5, 0)}) == 2

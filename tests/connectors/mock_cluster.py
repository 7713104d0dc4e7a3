"""librdkafka's own mock cluster: a broker in this process, for what needs an answer but no Kafka."""

from __future__ import annotations

from confluent_kafka import Producer


class MockCluster:
    """Lives as long as this object. Topics are made when first written to, with four partitions."""

    def __init__(self, *topics: str) -> None:
        self._producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
        for topic in topics:
            self._producer.list_topics(topic, timeout=5)
        brokers = self._producer.list_topics(timeout=5).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def producer(self) -> Producer:
        """The client that holds the cluster."""
        return self._producer

    def write(self, topic: str, *values: bytes, partition: int = 0) -> None:
        for value in values:
            self._producer.produce(topic, value, partition=partition)
        assert self._producer.flush(5) == 0

"""The topics of the bench: raw ones, filled once and kept, and a new one for each run's examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import uuid4

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic

from rillet.benchmarks.join.figures import Output
from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.topic_reader import TopicRecord, read_topic
from rillet.connectors.topics import create_topics, delete_topics, topic_ends
from rillet.recordings import Recording
from rillet.recordings.replay import replay

#: rows of label 1 and of label 0 in a record that a contestant has written; None where it joins nothing
CountRows = Callable[[TopicRecord], tuple[int, int] | None]


def raw_topics(servers: str, recording: Recording, partitions: int) -> tuple[str, str]:
    """The topics of features and actions that hold the recording; filled where they do not yet.

    :raises ConnectorError: the broker does not answer, or a record was lost.
    """
    name = f"{recording.directory.name}-{partitions}"
    features, actions = f"{name}-features", f"{name}-actions"
    wanted = {features: recording.info.requests, actions: recording.info.actions}
    if any(_records(servers, topic) != count for topic, count in wanted.items()):
        # Half filled, by a call that was ended.
        delete_topics(servers, list(wanted))
        replay(recording, servers, features=features, actions=actions, partitions=partitions)
    return features, actions


def examples_topic(servers: str, name: str) -> str:
    """A new topic, whose records have the time at which the broker took them.

    :raises ConnectorError: the broker does not make it.
    """
    topic = f"{name}-{uuid4().hex[:8]}"
    settings = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    new = NewTopic(topic, 1, 1, config=settings)
    kafka, errors = KafkaConnection.of(servers), BrokerErrors()
    admin = kafka.admin(errors)
    try:
        admin.create_topics([new])[topic].result(30.0)
    except KafkaException as error:
        raise kafka.explain(error, errors) from error
    # Waits until its partition has a leader.
    create_topics(servers, {topic: 1})
    return topic


def read_output(servers: str, topic: str, count: CountRows) -> Output | None:
    """What was written to a topic and committed; None where nothing was that tells of progress."""
    return output_of(read_topic(servers, topic), count)


def output_of(records: Iterable[TopicRecord], count: CountRows) -> Output | None:
    """See :func:`read_output`."""
    times_ms: list[int] = []
    positives = negatives = 0
    joins = True
    for record in records:
        rows = count(record)
        if rows is None:
            joins = False
            times_ms.append(record.timestamp_ms)
        else:
            times_ms += [record.timestamp_ms] * rows[0]
            positives, negatives = positives + rows[0], negatives + rows[1]
    if not times_ms:
        return None
    times_s = np.sort(np.array(times_ms, np.float64)) / 1_000
    return Output(times_s, positives, negatives) if joins else Output(times_s)


def _records(servers: str, topic: str) -> int:
    return sum(end - first for first, end in (topic_ends(servers, topic) or {}).values())

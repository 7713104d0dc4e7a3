"""A start never goes on from an older run than the one that has written the last rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.lag import GroupLag
from rillet.joiner import JoinerError, JoinerRuns
from rillet.pipelines.left_state import check_left
from tests.connectors.mock_cluster import MockCluster
from tests.joiner.snapshots import complete

GROUPS = {"features": "join-features", "actions": "join-actions"}


def test_a_run_that_was_stopped_with_its_savepoint_elsewhere_is_not_passed_over(tmp_path: Path) -> None:
    runs, cluster = JoinerRuns(tmp_path / "runs"), MockCluster(*GROUPS)
    for topic in GROUPS:
        cluster.write(topic, b"x", b"x")
    kafka = KafkaConnection(cluster.bootstrap_servers)
    check_left(runs, kafka, GROUPS)
    with GroupLag(kafka, GROUPS) as lag:
        lag.forget()
    run = runs.begin("")
    check_left(runs, kafka, GROUPS)  # it has failed before its first checkpoint: nothing of it has gone out

    consumer = kafka.consumer({"group.id": GROUPS["features"]})
    consumer.commit(offsets=[TopicPartition("features", 0, 2)], asynchronous=False)
    consumer.close()
    with pytest.raises(JoinerError, match="its state is not here") as refused:
        check_left(runs, kafka, GROUPS)
    assert str(run.savepoint_dir(drained=False)) in str(refused.value)

    complete(run.savepoint_dir(drained=False) / "savepoint-ababab-000000000000")
    check_left(runs, kafka, GROUPS)

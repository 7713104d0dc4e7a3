"""Where a first start begins to read: what can be written, what Flink is told of it, and which offsets a time stands for."""

from __future__ import annotations

import pytest

from rillet.connectors import start_positions
from rillet.connectors.errors import TopicError
from rillet.connectors.start_positions import StartAt, ends_at
from tests.connectors.mock_cluster import MockCluster

MAY_MS = 1_777_593_600_000


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("earliest", {"scan.startup.mode": "earliest-offset"}),
        ("latest", {"scan.startup.mode": "latest-offset"}),
        ("2026-05-01T00:00Z", {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": str(MAY_MS)}),
        ("2026-05-01 02:00:00+02:00", {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": str(MAY_MS)}),
        (
            "features:0=12, features:1=7,actions:0=3",
            {
                "scan.startup.mode": "specific-offsets",
                "scan.startup.specific-offsets": "partition:0,offset:12;partition:1,offset:7",
            },
        ),
    ],
)
def test_flink_is_told_where_to_begin(text: str, settings: dict[str, str]) -> None:
    assert StartAt.parse(text).settings("features") == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesterday", "'yesterday' is none of: earliest, latest, a time such as 2026-05-01T00:00Z"),
        ("2026-05-01T00:00", "has no time zone: write 2026-05-01T00:00Z for UTC"),
        ("features:0=12", "has offsets of features: features and actions need some each"),
        ("features:0=12,actions:x=3", "is none of"),
        ("1969-12-31T23:00Z", "lies before 1970, and no record has such a time"),
    ],
)
def test_what_could_mean_anything_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StartAt.parse(text)


def test_each_partition_needs_an_offset_that_it_holds() -> None:
    cluster = MockCluster("f", "a")  # of four partitions each
    cluster.write("f", b"1", b"2")
    topics = {"features": "f", "actions": "a"}
    all_of = dict.fromkeys(range(4), 0)
    StartAt(offsets={"features": all_of | {0: 2}, "actions": all_of}).check(cluster.bootstrap_servers, topics, MAY_MS)
    with pytest.raises(TopicError, match=r"partition 0 of topic f is given offset 3; it holds 0 to 2"):
        StartAt(offsets={"features": all_of | {0: 3}, "actions": all_of}).check(
            cluster.bootstrap_servers, topics, MAY_MS
        )
    with pytest.raises(TopicError, match=r"partition 1 of topic a is given no offset; .* actions:1=OFFSET"):
        StartAt(offsets={"features": all_of, "actions": {0: 0}}).check(cluster.bootstrap_servers, topics, MAY_MS)


def test_a_place_that_there_is_not_is_refused() -> None:
    """Flink would take the end for a time that has not come, and drop the offset of a partition that is not there."""
    cluster = MockCluster("f", "a")  # of four partitions each
    topics, all_of = {"features": "f", "actions": "a"}, dict.fromkeys(range(4), 0)
    surplus = StartAt(offsets={"features": all_of | {4: 0}, "actions": all_of})
    with pytest.raises(TopicError, match=r"topic f has no partition 4"):
        surplus.check(cluster.bootstrap_servers, topics, MAY_MS)
    StartAt(time_ms=MAY_MS).check(cluster.bootstrap_servers, topics, MAY_MS)
    with pytest.raises(TopicError, match=r"--from 2026-05-01T00:00:00.001\+00:00 has not come yet: .* `--from latest`"):
        StartAt(time_ms=MAY_MS + 1).check(cluster.bootstrap_servers, topics, MAY_MS)


def test_a_time_stands_for_the_first_record_from_it_on_and_for_the_end_where_none_is() -> None:
    cluster = MockCluster("f")
    for time_ms in (1_000, 3_000, 2_000):
        cluster.producer().produce("f", b"x", partition=1, timestamp=time_ms)
    assert cluster.producer().flush(5) == 0
    ends = ends_at(cluster.bootstrap_servers, ["f"], 5_000)
    assert ends == {("f", 0): 0, ("f", 1): 3, ("f", 2): 0, ("f", 3): 0}
    with pytest.raises(TopicError, match="topic g on"):
        ends_at(cluster.bootstrap_servers, ["g"], 0)


def test_records_that_were_deleted_may_have_been_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is left and lies before it says that those before it did too."""
    ends = {"f": {0: (7, 9), 1: (7, 9), 2: (0, 9), 3: (9, 9)}}
    monkeypatch.setattr(start_positions, "_ends", lambda _, topic: ends[topic])
    at = {("f", 0): 7, ("f", 1): 8, ("f", 2): 0, ("f", 3): 9}
    monkeypatch.setattr(start_positions, "ends_at", lambda *_: at)
    assert start_positions.cut_off("kafka:9092", ["f"], MAY_MS) == {("f", 0): 7, ("f", 3): 9}

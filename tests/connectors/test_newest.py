"""The newest records of a topic: how many offsets are read for them, and who is told at once that no broker is there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rillet.connectors import newest
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.newest import newest_records, require_broker
from rillet.connectors.topic_reader import TopicRecord

KAFKA = KafkaConnection("127.0.0.1:1")


def record(partition: int, offset: int) -> TopicRecord:
    return TopicRecord("examples", partition, offset, None, None, offset, -1)


class Topic:
    """Partitions of which some offsets hold no record, as those where a transaction ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offsets: dict[int, tuple[int, int, list[int]]]) -> None:
        self._offsets = offsets
        self.starts: list[dict[int, int]] = []
        ends = {partition: (first, end) for partition, (first, end, _) in offsets.items()}
        monkeypatch.setattr(newest, "topic_ends", lambda kafka, topic: ends)
        monkeypatch.setattr(newest, "read_topic", self._read)

    def _read(self, kafka: KafkaConnection, topic: str, *, start: dict[int, int]) -> Iterator[TopicRecord]:
        self.starts.append(start)
        for partition, (_, _, held) in self._offsets.items():
            yield from (record(partition, offset) for offset in held if offset >= start[partition])


def places(records: list[TopicRecord]) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in records]


def test_the_last_records_come_from_a_window_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(monkeypatch, {0: (0, 100, list(range(100)))})
    records, positions = newest_records(KAFKA, "examples", 3)
    assert places(records) == [(0, 97), (0, 98), (0, 99)]
    assert positions == {0: 100}
    assert topic.starts == [{0: 97}]


def test_of_several_partitions_no_more_records_are_given_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Topic(monkeypatch, {0: (0, 9, list(range(9))), 1: (0, 9, list(range(9)))})
    records, _ = newest_records(KAFKA, "examples", 3)
    assert places(records) == [(1, 6), (1, 7), (1, 8)]


def test_a_window_with_too_few_records_is_widened_to_the_first_offset_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(monkeypatch, {0: (40, 100, [45, 60])})
    records, positions = newest_records(KAFKA, "examples", 3)
    assert places(records) == [(0, 45), (0, 60)]
    assert positions == {0: 100}
    assert topic.starts == [{0: 97}, {0: 76}, {0: 40}]


def test_a_record_that_came_while_it_was_read_moves_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    Topic(monkeypatch, {0: (0, 5, list(range(8))), 1: (0, 2, [0, 1])})
    records, positions = newest_records(KAFKA, "examples", 20)
    assert len(records) == 10
    assert positions == {0: 8, 1: 2}


def test_for_no_records_only_the_positions_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(monkeypatch, {0: (0, 5, list(range(5)))})
    assert newest_records(KAFKA, "examples", 0) == ([], {0: 5})
    assert topic.starts == []


def test_a_topic_that_is_not_there_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "topic_ends", lambda kafka, topic: None)
    with pytest.raises(TopicError, match=r"topic examples on 127\.0\.0\.1:1: there is none yet; `rillet topics`"):
        newest_records(KAFKA, "examples", 3)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_one_address_that_answers_is_enough(listening: int) -> None:
    require_broker(KafkaConnection(f"127.0.0.1:1, 127.0.0.1:{listening}"))


@pytest.mark.parametrize(
    ("servers", "reason"),
    [("127.0.0.1:1", "Connection refused"), ("[::1]:x", "invalid literal"), ("broker", "invalid")],
)
def test_addresses_that_do_not_answer_are_told_with_the_reason_and_what_to_do(servers: str, reason: str) -> None:
    with pytest.raises(BrokerUnavailableError, match=rf"\({reason}.*start one with `rillet up --broker-only`"):
        require_broker(KafkaConnection(servers))

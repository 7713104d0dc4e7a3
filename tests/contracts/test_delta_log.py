"""What every delta log must do, run against each implementation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.sync import DeltaLog, LogRecord, LogUnavailableError, MemoryLog, PositionOutOfRangeError

WAIT_S = 10.0


def truncate_memory(log: DeltaLog, begin: int) -> None:
    assert isinstance(log, MemoryLog)
    log.truncate(begin)


def truncate_kafka(log: DeltaLog, begin: int) -> None:
    assert isinstance(log, KafkaDeltaLog)
    admin = AdminClient({"bootstrap.servers": log.kafka.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(log.topic, log.partition, begin)]).values():
        future.result(WAIT_S)


Truncate = Callable[[DeltaLog, int], None]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def log_and_truncate(request: pytest.FixtureRequest) -> Iterator[tuple[DeltaLog, Truncate]]:
    if request.param == "memory":
        yield MemoryLog(), truncate_memory
        return
    topic = request.getfixturevalue("topics")("deltas")
    with KafkaDeltaLog(request.getfixturevalue("broker"), topic) as log:
        yield log, truncate_kafka


@pytest.fixture
def log(log_and_truncate: tuple[DeltaLog, Truncate]) -> DeltaLog:
    return log_and_truncate[0]


def write(log: DeltaLog, *values: bytes) -> None:
    for value in values:
        log.append(b"key", value)
    log.flush(WAIT_S)


def read(log: DeltaLog, position: int, count: int, max_records: int = 100) -> list[LogRecord]:
    """Reads on until ``count`` records are there."""
    records: list[LogRecord] = []
    deadline = time.monotonic() + WAIT_S
    while len(records) < count and time.monotonic() < deadline:
        got = log.read(position, max_records, 1.0)
        records += got
        if got:
            position = got[-1].position + 1
    return records


def test_a_new_log_is_empty(log: DeltaLog) -> None:
    assert (log.begin(), log.end()) == (0, 0)
    assert log.read(0, 10, 0.1) == []


def test_records_come_back_in_order_with_key_and_position(log: DeltaLog) -> None:
    log.append(b"a", b"1")
    log.append(b"b", b"2")
    log.append(b"a", bytes(range(256)))
    log.flush(WAIT_S)

    assert read(log, 0, 3) == [
        LogRecord(0, b"a", b"1"),
        LogRecord(1, b"b", b"2"),
        LogRecord(2, b"a", bytes(range(256))),
    ]


def test_end_counts_a_record_as_soon_as_its_flush_returned(log: DeltaLog) -> None:
    for count in range(1, 6):
        write(log, b"x")
        assert log.end() == count


def test_flushing_nothing_returns(log: DeltaLog) -> None:
    log.flush(0.0)
    assert log.end() == 0


def test_reading_starts_anywhere_and_goes_back(log: DeltaLog) -> None:
    write(log, *(str(number).encode() for number in range(20)))

    assert [record.value for record in read(log, 15, 5)] == [b"15", b"16", b"17", b"18", b"19"]
    assert [record.value for record in read(log, 3, 2, max_records=2)][:2] == [b"3", b"4"]
    assert read(log, 3, 1, max_records=1)[0].value == b"3"


def test_no_more_records_than_asked_for_are_returned(log: DeltaLog) -> None:
    write(log, *(b"x" for _ in range(50)))
    position, sizes = 0, []
    while position < 50:
        got = log.read(position, 7, 1.0)
        sizes.append(len(got))
        position += len(got)
    assert max(sizes) <= 7


def test_a_reader_at_the_end_gets_what_is_written_later(log: DeltaLog) -> None:
    write(log, b"old")
    assert log.read(1, 10, 0.2) == []
    write(log, b"new")
    assert [record.value for record in read(log, 1, 1)] == [b"new"]


def test_a_block_of_a_megabyte_passes(log: DeltaLog) -> None:
    value = bytes(1_000_000)
    write(log, value)
    assert read(log, 0, 1)[0].value == value


@pytest.mark.parametrize("position", [-1, 3, 1000])
def test_a_position_outside_is_refused_with_the_bounds(log: DeltaLog, position: int) -> None:
    write(log, b"x", b"y")
    with pytest.raises(PositionOutOfRangeError) as caught:
        log.read(position, 10, 1.0)
    assert (caught.value.position, caught.value.begin, caught.value.end) == (position, 0, 2)


def test_a_truncated_position_is_refused(log_and_truncate: tuple[DeltaLog, Truncate]) -> None:
    log, truncate = log_and_truncate
    write(log, *(str(number).encode() for number in range(10)))
    truncate(log, 6)

    assert (log.begin(), log.end()) == (6, 10)
    with pytest.raises(PositionOutOfRangeError, match=r"position 2 .* holds 6\.\.10"):
        log.read(2, 10, 1.0)
    assert [record.position for record in read(log, 6, 4)] == [6, 7, 8, 9]


class TestKafkaAlone:
    """What only a log with a network between can get wrong."""

    def test_an_unreachable_broker_is_named(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.3) as log:
            with pytest.raises(LogUnavailableError, match=r"deltas\[0\] on 127\.0\.0\.1:1"):
                log.end()
            log.append(b"k", b"v")
            with pytest.raises(LogUnavailableError, match=r"127\.0\.0\.1:1: did not acknowledge 1 records"):
                log.flush(0.3)

    def test_after_a_failed_flush_the_queue_is_empty(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.3) as log:
            log.append(b"k", b"v")
            with pytest.raises(LogUnavailableError):
                log.flush(0.2)
            log.flush(0.2)

    def test_a_full_queue_ends_in_an_error(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.3, queue_bytes=1 << 20) as log:
            log.append(b"k", bytes(900_000))
            with pytest.raises(LogUnavailableError, match="full queue"):
                log.append(b"k", bytes(900_000))

    @pytest.mark.integration
    def test_a_missing_topic_is_named(self, broker: str) -> None:
        with KafkaDeltaLog(broker, "no-such-topic") as log, pytest.raises(LogUnavailableError, match="no-such-topic"):
            log.end()

    @pytest.mark.integration
    def test_truncation_under_a_reader_is_noticed(self, broker: str, topics: Callable[..., str]) -> None:
        with KafkaDeltaLog(broker, topics("deltas"), read_ahead_bytes=4096) as log:
            for _ in range(60):  # one flush each: a broker hands out what was sent together as a whole
                write(log, bytes(2000))
            position = log.read(0, 1, WAIT_S)[-1].position + 1
            truncate_kafka(log, 50)

            deadline = time.monotonic() + WAIT_S
            with pytest.raises(PositionOutOfRangeError, match=r"holds 50\.\.60"):  # noqa: PT012 - after what was ahead
                while position < 50 and time.monotonic() < deadline:
                    for record in log.read(position, 10, 1.0):
                        assert record.position == position
                        position += 1
            assert [record.position for record in read(log, 50, 10)] == list(range(50, 60))

    @pytest.mark.integration
    def test_the_log_works_again_after_a_failed_flush(self, broker: str, topics: Callable[..., str]) -> None:
        with KafkaDeltaLog(broker, topics("deltas")) as log:
            log.append(b"k", b"lost or not")
            try:
                log.flush(0.0)
            except LogUnavailableError:
                end = log.end()
            else:
                end = log.end()
                assert end == 1
            write(log, b"after")
            values = [record.value for record in read(log, 0, log.end())]
            assert values[-1] == b"after"
            assert len(values) in (end + 1, end + 2)

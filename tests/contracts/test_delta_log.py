"""Every delta log passes the suite; one that does not keep the contract fails it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.schemas import BackpressureError
from rillet.sync import LogRecord, LogUnavailableError, MemoryLog, PositionOutOfRangeError
from tests.contracts import delta_log_suite as suite
from tests.contracts.delta_log_suite import CHECKS, WAIT_S, LogUnderTest, read, write

Check = Callable[[LogUnderTest], None]


def truncate_kafka(log: KafkaDeltaLog, begin: int) -> None:
    admin = AdminClient({"bootstrap.servers": log.kafka.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(log.topic, log.partition, begin)]).values():
        future.result(WAIT_S)


def in_memory(kind: type[MemoryLog] = MemoryLog) -> LogUnderTest:
    log = kind()
    return LogUnderTest(log, log.truncate, kind(max_queued_records=3))


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
def under(request: pytest.FixtureRequest) -> Iterator[LogUnderTest]:
    if request.param == "memory":
        yield in_memory()
        return
    topics, broker = request.getfixturevalue("topics"), request.getfixturevalue("broker")
    with (
        KafkaDeltaLog(broker, topics("deltas")) as log,
        KafkaDeltaLog(broker, topics("deltas"), queue_bytes=1 << 20) as small,
    ):
        log.start()
        yield LogUnderTest(log, lambda begin: truncate_kafka(log, begin), small)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(under: LogUnderTest, check: Check) -> None:
    check(under)


class LosesTheLast(MemoryLog):
    def commit(self, timeout_s: float) -> None:
        del self._queue[-1:]
        super().commit(timeout_s)


class Reorders(MemoryLog):
    def commit(self, timeout_s: float) -> None:
        self._queue.reverse()
        super().commit(timeout_s)


class ForgetsKeys(MemoryLog):
    def append(self, key: bytes, value: bytes) -> None:
        super().append(b"", value)


class CountsLate(MemoryLog):
    def end(self) -> int:
        return max(super().end() - 1, 0)


class ReadsAsMuchAsItLikes(MemoryLog):
    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        return super().read(position, 1000, timeout_s)


class HidesWhatItLacks(MemoryLog):
    def read(self, position: int, max_records: int, timeout_s: float) -> list[LogRecord]:
        return super().read(min(max(position, self._begin), self._end), max_records, timeout_s)


class DropsWhenFull(MemoryLog):
    def append(self, key: bytes, value: bytes) -> None:
        try:
            super().append(key, value)
        except BackpressureError:
            return


class TakesARecordThatItRefuses(MemoryLog):
    def append(self, key: bytes, value: bytes) -> None:
        try:
            super().append(key, value)
        except BackpressureError:
            self._queue.append((key, value))
            raise


class WorksOnWhenClosed(MemoryLog):
    def close(self) -> None:
        self._queue = []


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (LosesTheLast, suite.end_counts_a_record_as_soon_as_its_commit_returned),
        (Reorders, suite.records_come_back_in_order_with_key_and_position),
        (ForgetsKeys, suite.records_come_back_in_order_with_key_and_position),
        (CountsLate, suite.end_counts_a_record_as_soon_as_its_commit_returned),
        (ReadsAsMuchAsItLikes, suite.no_more_records_than_asked_for_are_returned),
        (HidesWhatItLacks, suite.a_position_outside_is_refused_with_the_bounds),
        (HidesWhatItLacks, suite.a_truncated_position_is_refused),
        (DropsWhenFull, suite.a_full_queue_refuses_a_record_and_takes_it_after_a_commit),
        (TakesARecordThatItRefuses, suite.a_full_queue_refuses_a_record_and_takes_it_after_a_commit),
        (WorksOnWhenClosed, suite.a_closed_log_takes_and_gives_nothing),
    ],
)
def test_a_log_that_breaks_the_contract_fails_the_check(kind: type[MemoryLog], check: Check) -> None:
    under = in_memory(kind)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(under)


class TestKafkaAlone:
    """What only a log with a network between can get wrong."""

    def test_an_unreachable_broker_is_named(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.1) as log:
            with pytest.raises(LogUnavailableError, match=r"deltas\[0\] on 127\.0\.0\.1:1"):
                log.end()
            log.append(b"k", b"v")
            with pytest.raises(LogUnavailableError, match=r"127\.0\.0\.1:1: did not acknowledge 1 records"):
                log.commit(0.1)

    def test_after_a_failed_commit_the_queue_is_empty(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.1) as log:
            log.append(b"k", b"v")
            with pytest.raises(LogUnavailableError):
                log.commit(0.1)
            log.commit(0.1)

    def test_a_full_queue_names_topic_and_broker_without_waiting(self) -> None:
        with KafkaDeltaLog("127.0.0.1:1", "deltas", queue_bytes=1 << 20) as log:
            log.append(b"k", bytes(900_000))
            started = time.monotonic()
            with pytest.raises(
                BackpressureError, match=r"deltas\[0\]: 1 records wait for the broker on 127\.0\.0\.1:1"
            ):
                log.append(b"k", bytes(900_000))
            assert time.monotonic() - started < 0.1

    @pytest.mark.integration
    def test_a_missing_topic_is_named(self, broker: str) -> None:
        with KafkaDeltaLog(broker, "no-such-topic") as log, pytest.raises(LogUnavailableError, match="no-such-topic"):
            log.end()

    @pytest.mark.integration
    def test_truncation_under_a_reader_is_noticed(self, broker: str, topics: Callable[..., str]) -> None:
        with KafkaDeltaLog(broker, topics("deltas"), read_ahead_bytes=4096) as log:
            for _ in range(60):  # one commit each: a broker hands out what was sent together as a whole
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
    def test_the_log_works_again_after_a_failed_commit(self, broker: str, topics: Callable[..., str]) -> None:
        with KafkaDeltaLog(broker, topics("deltas")) as log:
            log.append(b"k", b"lost or not")
            try:
                log.commit(0.0)
            except LogUnavailableError:
                end = log.end()
            else:
                end = log.end()
                assert end == 1
            write(log, b"after")
            values = [record.value for record in read(log, 0, log.end())]
            assert values[-1] == b"after"
            assert len(values) in (end + 1, end + 2)

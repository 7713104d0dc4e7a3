"""What every delta log must do, as a list of checks to run against each implementation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from rillet.schemas import BackpressureError, ClosedError
from rillet.sync import DeltaLog, LogRecord, PositionOutOfRangeError

WAIT_S = 10.0


@dataclass(frozen=True)
class LogUnderTest:
    """A new log, started."""

    log: DeltaLog
    #: forgets the records below a position, as retention does
    truncate: Callable[[int], None]
    #: another new log, not started, with room for a megabyte or a few records in its queue
    small: DeltaLog


def write(log: DeltaLog, *values: bytes) -> None:
    for value in values:
        log.append(b"key", value)
    log.commit(WAIT_S)


def read(log: DeltaLog, position: int, count: int, max_records: int = 100) -> list[LogRecord]:
    """Reads on until ``count`` records are there, or nothing more comes."""
    records: list[LogRecord] = []
    deadline = time.monotonic() + WAIT_S
    while len(records) < count and position < log.end() and time.monotonic() < deadline:
        got = log.read(position, max_records, 1.0)
        records += got
        if got:
            position = got[-1].position + 1
    return records


def a_new_log_is_empty(under: LogUnderTest) -> None:
    assert (under.log.begin(), under.log.end()) == (0, 0)
    assert under.log.read(0, 10, 0.1) == []


def records_come_back_in_order_with_key_and_position(under: LogUnderTest) -> None:
    log = under.log
    log.append(b"a", b"1")
    log.append(b"b", b"2")
    log.append(b"a", bytes(range(256)))
    log.commit(WAIT_S)

    assert read(log, 0, 3) == [
        LogRecord(0, b"a", b"1"),
        LogRecord(1, b"b", b"2"),
        LogRecord(2, b"a", bytes(range(256))),
    ]


def end_counts_a_record_as_soon_as_its_commit_returned(under: LogUnderTest) -> None:
    for count in range(1, 6):
        write(under.log, b"x")
        assert under.log.end() == count


def committing_nothing_returns(under: LogUnderTest) -> None:
    under.log.commit(0.0)
    assert under.log.end() == 0


def reading_starts_anywhere_and_goes_back(under: LogUnderTest) -> None:
    log = under.log
    write(log, *(str(number).encode() for number in range(20)))

    assert [record.value for record in read(log, 15, 5)] == [b"15", b"16", b"17", b"18", b"19"]
    assert [record.value for record in read(log, 3, 2, max_records=2)][:2] == [b"3", b"4"]
    assert read(log, 3, 1, max_records=1)[0].value == b"3"


def no_more_records_than_asked_for_are_returned(under: LogUnderTest) -> None:
    write(under.log, *(b"x" for _ in range(50)))
    position, sizes = 0, []
    while position < 50:
        got = under.log.read(position, 7, 1.0)
        sizes.append(len(got))
        position += len(got)
    assert max(sizes) <= 7


def a_reader_at_the_end_gets_what_is_written_later(under: LogUnderTest) -> None:
    write(under.log, b"old")
    assert under.log.read(1, 10, 0.2) == []
    write(under.log, b"new")
    assert [record.value for record in read(under.log, 1, 1)] == [b"new"]


def a_block_of_a_megabyte_passes(under: LogUnderTest) -> None:
    value = bytes(1_000_000)
    write(under.log, value)
    assert read(under.log, 0, 1)[0].value == value


def a_position_outside_is_refused_with_the_bounds(under: LogUnderTest) -> None:
    write(under.log, b"x", b"y")
    for position in (-1, 3, 1000):
        with pytest.raises(PositionOutOfRangeError) as caught:
            under.log.read(position, 10, 1.0)
        assert (caught.value.position, caught.value.begin, caught.value.end) == (position, 0, 2)


def a_truncated_position_is_refused(under: LogUnderTest) -> None:
    log = under.log
    write(log, *(str(number).encode() for number in range(10)))
    under.truncate(6)

    assert (log.begin(), log.end()) == (6, 10)
    with pytest.raises(PositionOutOfRangeError, match=r"position 2 .* holds 6\.\.10"):
        log.read(2, 10, 1.0)
    assert [record.position for record in read(log, 6, 4)] == [6, 7, 8, 9]


def a_full_queue_refuses_a_record_and_takes_it_after_a_commit(under: LogUnderTest) -> None:
    log, taken = under.small, 0
    log.start()
    begin = log.end()
    value = bytes(900_000)
    with pytest.raises(BackpressureError):  # noqa: PT012 - how many it takes is its own business
        for _ in range(1000):
            log.append(b"k", value)
            taken += 1
    log.commit(WAIT_S)
    assert log.end() == begin + taken
    write(log, value)
    assert log.end() == begin + taken + 1


def closing_twice_is_closing_once_even_without_a_start(under: LogUnderTest) -> None:
    for log in (under.log, under.small):
        log.close()
        log.close()


def a_closed_log_takes_and_gives_nothing(under: LogUnderTest) -> None:
    log = under.log
    write(log, b"x")
    log.append(b"k", b"not committed")
    log.close()
    uses: tuple[Callable[[], object], ...] = (
        lambda: log.append(b"k", b"v"),
        lambda: log.commit(0.0),
        lambda: log.read(0, 1, 0.0),
        log.begin,
        log.end,
    )
    for use in uses:
        with pytest.raises(ClosedError, match="was closed"):
            use()


CHECKS: tuple[Callable[[LogUnderTest], None], ...] = (
    a_new_log_is_empty,
    records_come_back_in_order_with_key_and_position,
    end_counts_a_record_as_soon_as_its_commit_returned,
    committing_nothing_returns,
    reading_starts_anywhere_and_goes_back,
    no_more_records_than_asked_for_are_returned,
    a_reader_at_the_end_gets_what_is_written_later,
    a_block_of_a_megabyte_passes,
    a_position_outside_is_refused_with_the_bounds,
    a_truncated_position_is_refused,
    a_full_queue_refuses_a_record_and_takes_it_after_a_commit,
    closing_twice_is_closing_once_even_without_a_start,
    a_closed_log_takes_and_gives_nothing,
)

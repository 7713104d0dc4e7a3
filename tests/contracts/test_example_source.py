"""What every example source must do, run against each implementation; and implementations that must not pass."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.connectors.batch_then_online import BatchThenOnline
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FILES_PARTITION, FilePlan, FileSource
from rillet.schemas import ClosedError
from rillet.trainer import ExampleSource, ListSource, Positions, RawRecord, ReadBlock
from tests.trainer.blocks import RAGGED, make_block

PARTITIONS = 2


class Topic(Protocol):
    """Partitions of records, and sources over them that end at the end that the partitions have at the start."""

    #: numbers of the partitions
    partitions: Sequence[int]
    #: how often in a row a source may be asked, for 10 ms each, before it gives records or ends
    empty_polls: int

    def write(self, partition: int, number: int) -> None:
        """Appends the record of a number to a partition."""

    def number(self, record: RawRecord | ReadBlock) -> int:
        """The number that a record was written with."""

    def source(self, positions: Positions) -> ExampleSource:
        """A source from ``positions`` on, not started."""


class Values:
    """Numbers as the values of records."""

    partitions = range(PARTITIONS)

    def number(self, record: RawRecord | ReadBlock) -> int:
        assert isinstance(record, RawRecord)
        return int(record.value)


class ListTopic(Values):
    """Records in a list."""

    empty_polls = 10

    def __init__(self, kind: type[ListSource] = ListSource) -> None:
        self._kind = kind
        self._records: list[RawRecord] = []
        self._next = [0] * PARTITIONS

    def write(self, partition: int, number: int) -> None:
        self._records.append(RawRecord(partition, self._next[partition], str(number).encode()))
        self._next[partition] += 1

    def source(self, positions: Positions) -> ExampleSource:
        return self._kind(self._records, positions)


class KafkaTopic(Values):
    """Records on a broker."""

    empty_polls = 2_000

    def __init__(self, broker: str, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True})

    def write(self, partition: int, number: int) -> None:
        self._producer.produce(self._topic, str(number).encode(), partition=partition)

    def source(self, positions: Positions) -> ExampleSource:
        assert self._producer.flush(20) == 0
        return KafkaExampleSource(self._broker, self._topic, positions, until_latest=True)


class FileTopic:
    """Records of one row each in files; the number is that of the impression."""

    partitions = (FILES_PARTITION,)
    empty_polls = 10

    def __init__(self) -> None:
        self._url = f"memory://{uuid.uuid4().hex}"
        self._random = np.random.default_rng(0)
        self._writer = ExampleWriter(self._url, RAGGED, "topic examples", group_rows=6)
        self._writer.open()

    def write(self, partition: int, number: int) -> None:
        block = make_block(self._random, 1)
        hours = np.array([number % 4 * 3_600_000])
        block = replace(block, impression_ids=np.array([number]), feature_time_ms=hours)
        self._writer.add(ReadBlock(0, number, block))
        if self._writer.full:
            self._writer.write_group()

    def number(self, record: RawRecord | ReadBlock) -> int:
        assert isinstance(record, ReadBlock)
        assert record.block is not None
        return int(record.block.impression_ids[0])

    def source(self, positions: Positions) -> ExampleSource:
        plan = FilePlan.of(self._writer.commit())
        return FileSource(self._url, RAGGED, replace(plan, chunk_rows=1), positions)


class StagedTopic(ListTopic):
    """Files without rows, then records in a list."""

    def source(self, positions: Positions) -> ExampleSource:
        return BatchThenOnline(FileTopic().source({}), lambda: super(StagedTopic, self).source(positions))


@pytest.fixture(params=["list", "files", "files then list", pytest.param("kafka", marks=pytest.mark.integration)])
def topic(request: pytest.FixtureRequest) -> Iterator[Topic]:
    in_memory: dict[str, type[Topic]] = {"list": ListTopic, "files": FileTopic, "files then list": StagedTopic}
    if request.param in in_memory:
        yield in_memory[request.param]()
        return
    name = request.getfixturevalue("topics")("examples", partitions=PARTITIONS)
    yield KafkaTopic(request.getfixturevalue("broker"), name)


def _fill(topic: Topic, count: int = 20) -> None:
    for number in range(count):
        topic.write(_partition(topic, number), number)


def _partition(topic: Topic, number: int) -> int:
    return topic.partitions[number % 3 % len(topic.partitions)]


def _next(topic: Topic, source: ExampleSource, max_items: int) -> Sequence[RawRecord | ReadBlock] | None:
    """The next records, None at the end; asks again as long as there are none."""
    for _ in range(topic.empty_polls):
        records = source.poll(max_items, 0.01)
        if records is None or records:
            return records
    pytest.fail("the source neither gives records nor ends")


def _rest(topic: Topic, source: ExampleSource, max_items: int = 7) -> list[RawRecord | ReadBlock]:
    found: list[RawRecord | ReadBlock] = []
    while (records := _next(topic, source, max_items)) is not None:
        found += records
    return found


def gives_each_partition_in_order(topic: Topic) -> None:
    _fill(topic)
    source = topic.source({})
    source.start()
    found = _rest(topic, source)
    source.close()
    for partition in topic.partitions:
        mine = [record for record in found if record.partition == partition]
        numbers = [number for number in range(20) if _partition(topic, number) == partition]
        assert [topic.number(record) for record in mine] == numbers
        assert [record.offset for record in mine] == list(range(len(numbers)))


def gives_no_more_than_asked_for(topic: Topic) -> None:
    _fill(topic)
    source = topic.source({})
    source.start()
    while (records := _next(topic, source, 3)) is not None:
        assert len(records) <= 3
    source.close()


def ends_with_none_for_good(topic: Topic) -> None:
    _fill(topic, 4)
    source = topic.source({})
    source.start()
    _rest(topic, source)
    assert source.poll(10, 0.0) is None
    assert source.poll(10, 0.0) is None
    assert source.trouble == ""
    source.close()


def ends_at_once_without_records(topic: Topic) -> None:
    source = topic.source({})
    source.start()
    assert _rest(topic, source) == []
    source.close()


def goes_on_from_positions_and_reads_nothing_twice(topic: Topic) -> None:
    _fill(topic)
    seen: list[RawRecord | ReadBlock] = []
    positions: Positions = {}
    for _ in range(4):
        source = topic.source(positions)
        source.start()
        for record in _next(topic, source, 4) or ():
            seen.append(record)
            positions[record.partition] = (record.offset + 1, 0)
        source.close()
    source = topic.source(positions)
    source.start()
    seen += _rest(topic, source)
    source.close()
    assert sorted(topic.number(record) for record in seen) == list(range(20))


def gives_a_record_again_of_which_some_rows_are_left(topic: Topic) -> None:
    _fill(topic)
    first = topic.partitions[0]
    source = topic.source(dict.fromkeys(topic.partitions, (6, 0)) | {first: (2, 5)})
    source.start()
    found = _rest(topic, source)
    source.close()
    assert min(record.offset for record in found if record.partition == first) == 2


def tells_how_many_records_lie_after_positions(topic: Topic) -> None:
    _fill(topic)
    source = topic.source({})
    source.start()
    count = dict.fromkeys(topic.partitions, 0)
    for number in range(20):
        count[_partition(topic, number)] += 1
    first = topic.partitions[0]
    _next(topic, source, 1)
    assert source.lag({}) == 20
    assert source.lag({first: (3, 0)}) == source.lag({first: (3, 7)}) == 17
    _rest(topic, source)
    assert source.lag({}) == 20
    assert source.lag({number: (records, 0) for number, records in count.items()}) == 0
    source.close()


def takes_nothing_after_closing(topic: Topic) -> None:
    _fill(topic, 4)
    source = topic.source({})
    source.start()
    source.close()
    source.close()
    with pytest.raises(ClosedError):
        source.poll(1, 0.0)


def may_be_closed_without_a_start(topic: Topic) -> None:
    topic.source({}).close()


Check = Callable[[Topic], None]
CHECKS: list[Check] = [
    gives_each_partition_in_order,
    gives_no_more_than_asked_for,
    ends_with_none_for_good,
    ends_at_once_without_records,
    goes_on_from_positions_and_reads_nothing_twice,
    gives_a_record_again_of_which_some_rows_are_left,
    tells_how_many_records_lie_after_positions,
    takes_nothing_after_closing,
    may_be_closed_without_a_start,
]


@pytest.mark.parametrize("check", CHECKS)
def test_an_example_source(topic: Topic, check: Check) -> None:
    check(topic)


# -- implementations that the suite has to refuse ----------------------------------------------------------


class Reordered(ListSource):
    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        records = super().poll(max_items, timeout_s)
        return records and records[::-1]


class Greedy(ListSource):
    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        return super().poll(max_items + 1, timeout_s)


class Endless(ListSource):
    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        return super().poll(max_items, timeout_s) or []


class Forgetful(ListSource):
    """Goes on at the record before the position."""

    def __init__(self, records: Sequence[RawRecord], positions: Positions) -> None:
        super().__init__(records, {number: (max(0, offset - 1), 0) for number, (offset, _) in positions.items()})


class Hasty(ListSource):
    """Passes a record of which rows are left."""

    def __init__(self, records: Sequence[RawRecord], positions: Positions) -> None:
        super().__init__(records, {number: (offset + (rows > 0), 0) for number, (offset, rows) in positions.items()})


class NeverClosed(ListSource):
    def close(self) -> None:
        pass


class Forgiving(ListSource):
    """Counts what it has given out as done."""

    def lag(self, positions: Positions) -> int:
        return len(self._waiting)


BROKEN: list[tuple[type[ListSource], Check]] = [
    (Reordered, gives_each_partition_in_order),
    (Greedy, gives_no_more_than_asked_for),
    (Endless, ends_with_none_for_good),
    (Endless, ends_at_once_without_records),
    (Forgetful, goes_on_from_positions_and_reads_nothing_twice),
    (Hasty, gives_a_record_again_of_which_some_rows_are_left),
    (Forgiving, tells_how_many_records_lie_after_positions),
    (NeverClosed, takes_nothing_after_closing),
]


@pytest.mark.parametrize(("kind", "check"), BROKEN)
def test_the_suite_refuses_a_broken_source(kind: type[ListSource], check: Check) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(ListTopic(kind))

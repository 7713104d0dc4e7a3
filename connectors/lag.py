"""How far readers are from the ends of their topics.

Flink commits the offsets of each checkpoint to its groups, so their lag is how much of the input is not yet covered by one.
The trainer commits nothing: its lag is told by what its consumer hears while it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.topics import topic_ends
from rillet.schemas import ClosedError

#: end offset by topic and partition
Ends = Mapping[tuple[str, int], int]
Answer = TypeVar("Answer")


class _Place(NamedTuple):
    """How far a group is in one partition; ``position`` is the offset after the last record that it has committed."""

    topic: str
    partition: int
    first: int
    end: int
    position: int


class GroupLag:
    """Reads the lag of groups that consume one topic each; not safe to share between threads."""

    def __init__(self, kafka: KafkaConnection | str, groups: Mapping[str, str], *, timeout_s: float = 10.0) -> None:
        """
        :param groups: topic to the consumer group that reads it.
        :param timeout_s: how long the broker may take for one answer.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._groups = dict(groups)
        self._timeout_s = timeout_s
        self._errors = BrokerErrors()
        self._consumers: dict[str, Consumer] = {}
        #: where groups were before an end at the last call of :meth:`has_reached`
        self._stuck_at: dict[tuple[str, int], int] = {}

    def start(self) -> None:
        """Makes the clients."""
        for topic, group in self._groups.items():
            settings = {"group.id": group, "enable.auto.commit": False}
            self._consumers[topic] = self._kafka.consumer(settings, self._errors)

    def records(self) -> int:
        """Records on the topics after the positions that the groups have committed; all of them where none is.

        :raises TopicError: a topic is missing.
        :raises BrokerRefusedError: the broker does not let us in, or not see a group.
        :raises BrokerUnavailableError: no broker answers.
        :raises ClosedError: not started, or closed.
        """
        return sum(place.end - place.position for place in self._places())

    def ends(self) -> Ends:
        """The present end offset of each partition of each topic; raises as :meth:`records`."""
        return {(place.topic, place.partition): place.end for place in self._places()}

    def has_reached(self, ends: Ends) -> bool:
        """Whether the groups have committed all records before ``ends``; raises as :meth:`records`.

        Offsets that bring no record (what ends a transaction, and aborted ones) are passed over.
        """
        before, self._stuck_at = self._stuck_at, {}
        reached = True
        for place in self._places():
            key = (place.topic, place.partition)
            if place.position >= ends.get(key, 0):
                continue
            self._stuck_at[key] = place.position
            # Whether there is a record is asked only where the group has not moved since the last call.
            if before.get(key) != place.position or self._has_record(place, ends[key]):
                reached = False
        return reached

    def answers(self, timeout_s: float = 2.0) -> bool:
        """Whether a broker tells of every topic, within ``timeout_s`` each.

        :raises ClosedError: not started, or closed.
        """
        if not self._consumers:
            raise ClosedError("the lag reader was not started, or is closed")
        try:
            return all(
                consumer.list_topics(topic, timeout=timeout_s).topics[topic].error is None
                for topic, consumer in self._consumers.items()
            )
        except KafkaException:
            return False

    def forget(self) -> None:
        """Puts the groups back to the beginnings of their topics, for a reader whose own state says where it goes on.

        What it commits then is what it has read, and not what another one has read before it.

        :raises: as :meth:`records`.
        """
        places = list(self._places())
        for topic, consumer in self._consumers.items():
            begin = [TopicPartition(topic, place.partition, place.first) for place in places if place.topic == topic]
            self._ask(partial(consumer.commit, offsets=begin, asynchronous=False))

    def _places(self) -> Iterator[_Place]:
        if not self._consumers:
            raise ClosedError("the lag reader was not started, or is closed")
        for topic, consumer in self._consumers.items():
            ends = topic_ends(self._kafka, topic, self._timeout_s)
            if ends is None:
                raise TopicError(f"topic {topic} on {self._kafka}: there is none; name it in [kafka.topics]")
            partitions = [TopicPartition(topic, number) for number in ends]
            committed = self._ask(partial(consumer.committed, partitions, timeout=self._timeout_s))
            for entry in committed:
                first, end = ends[entry.partition]
                # A partition that was never committed has a negative offset.
                yield _Place(topic, entry.partition, first, end, max(entry.offset, first))

    def _has_record(self, place: _Place, end: int) -> bool:
        """Whether a committed record lies between a group's position and ``end``; True where that is not known."""
        reader = self._kafka.consumer(
            {"group.id": self._groups[place.topic], "enable.auto.commit": False, "enable.partition.eof": True},
            self._errors,
        )
        try:
            reader.assign([TopicPartition(place.topic, place.partition, place.position)])
            message = reader.poll(self._timeout_s)
            if message is None:
                return True
            if (error := message.error()) is None:
                return (message.offset() or 0) < end
            if error.code() != KafkaError._PARTITION_EOF:
                raise self._kafka.explain(error, self._errors)
            return False
        finally:
            reader.close()

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        try:
            return request()
        except KafkaException as error:
            raise self._kafka.explain(error, self._errors) from error

    def close(self) -> None:
        """Leaves the broker."""
        consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PositionLag:
    """Records of a topic after given positions, by what a reader of committed records hears of the ends.

    Exact at the end. Before it, offsets are counted that bring no record: ends of transactions, and aborted ones.

    >>> lag = PositionLag({0: (0, 6)})
    >>> for offset in range(5): lag.given(0, offset)
    >>> lag.records({0: (4, 30)}), lag.records({0: (5, 0)})
    (2, 1)
    >>> lag.reached_end(0, 6)  # offset 5 ends the transaction
    >>> lag.records({0: (5, 0)})
    0
    """

    def __init__(self, partitions: Mapping[int, tuple[int, int]]) -> None:
        """:param partitions: where reading begins in each, and the offset at which it ends, as far as is known."""
        self._next = {partition: first for partition, (first, _) in partitions.items()}
        self._first = dict(self._next)
        self._ends = {partition: end for partition, (_, end) in partitions.items()}
        #: ends of partitions that were read up to
        self._reached: dict[int, int] = {}

    def given(self, partition: int, offset: int) -> None:
        """A record was read."""
        self._next[partition] = offset + 1
        self._ends[partition] = max(self._ends[partition], offset + 1)

    def reached_end(self, partition: int, end: int) -> None:
        """Reading has come to the end of what is committed: nothing more lies before offset ``end``."""
        self._reached[partition] = end
        self._ends[partition] = self._next[partition]

    def end_is(self, partition: int, end: int) -> None:
        """The broker says that committed records, or what brings none, go on up to ``end``; -1 or below is unknown.

        Partitions that were added after the start are not read.
        """
        if partition in self._ends and end > self._reached.get(partition, -1):
            self._ends[partition] = max(end, self._next[partition])

    def records(self, positions: Mapping[int, tuple[int, int]]) -> int:
        """Records after ``positions``; in partitions that are not named, after where reading began. From any thread."""
        return sum(
            max(0, end - positions.get(partition, (self._first[partition], 0))[0])
            for partition, end in tuple(self._ends.items())
        )

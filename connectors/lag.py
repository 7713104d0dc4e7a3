"""How far readers are from the ends of their topics.

Flink commits the offsets of each checkpoint to its groups, so their lag is how much of the input is not yet covered by one.
The trainer commits nothing: its lag is told by what its consumer hears while it reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.topics import ends_by
from rillet.schemas import ClosedError

#: end offset by topic and partition
Ends = Mapping[tuple[str, int], int]
Answer = TypeVar("Answer")

#: metadata of offsets that :meth:`GroupLag.forget` commits; what a reader commits has other metadata, or none
_PUT_BACK = "rillet: put back"


class _Place(NamedTuple):
    """How far a group is in one partition.

    :param position: the offset after the last record that it has committed.
    :param put_back: whether it has committed none since :meth:`GroupLag.forget`.
    :param read: whether it has committed any since then.
    """

    topic: str
    partition: int
    first: int
    end: int
    position: int
    put_back: bool
    read: bool


class TopicProgress(NamedTuple):
    """How far a group has committed one topic, by partition.

    :param ends: those of open transactions too.
    :param all_read: whether no record lies before them that the group has not committed, and no transaction is open.
    :param begun: whether the group has committed anything since :meth:`GroupLag.forget`; its positions say nothing before.
    """

    ends: Mapping[int, int]
    positions: Mapping[int, int]
    all_read: bool
    begun: bool = True


class GroupLag:
    """Reads the lag of groups that consume one topic each; not safe to share between threads.

    Each topic has one consumer, which joins no group and is asked for offsets only, and rarely for records.
    """

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
        #: sees the ends of transactions that are open
        self._uncommitted: Consumer | None = None
        #: where groups were before an end at the last call of :meth:`unread`
        self._stuck_at: dict[tuple[str, int], int] = {}
        #: (position, end) of partitions between which there is no record
        self._empty: dict[tuple[str, int], tuple[int, int]] = {}

    def start(self) -> None:
        """Makes the clients."""
        settings = {
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 4096,
        }
        for topic, group in self._groups.items():
            self._consumers[topic] = self._kafka.consumer({**settings, "group.id": group}, self._errors)

    def records(self) -> int:
        """Records on the topics after the positions that the groups have committed; all of them where none is.

        :raises TopicError: a topic is missing.
        :raises BrokerRefusedError: the broker does not let us in, or not see a group.
        :raises BrokerUnavailableError: no broker answers.
        :raises ClosedError: not started, or closed.
        """
        return sum(place.end - place.position for place in self._places())

    def known_records(self) -> int | None:
        """As :meth:`records`; None while a reader that :meth:`forget` has put back has committed nothing.

        How far it is by its own state is not known then.
        """
        places = self._places()
        if any(place.put_back and place.end > place.first for place in places):
            return None
        return sum(place.end - place.position for place in places)

    def has_read(self) -> bool:
        """Whether the groups have committed that records were read, since :meth:`forget`; raises as :meth:`records`."""
        return any(place.read for place in self._places())

    def ends(self) -> Ends:
        """The present end offset of each partition of each topic; raises as :meth:`records`.

        Of committed records: where a transaction is open, the offset at which it begins.
        """
        return {(place.topic, place.partition): place.end for place in self._places()}

    def has_reached(self, ends: Ends) -> bool:
        """Whether the groups have committed all records before ``ends``; raises as :meth:`records`.

        Offsets that bring no record (what ends a transaction, and aborted ones) are passed over.
        """
        return not self.unread(ends)

    def unread(self, ends: Ends) -> dict[str, Mapping[int, int]]:
        """Topics of which not all records before ``ends`` are committed, and the groups' positions in them, by partition.

        Offsets that bring no record count only until the group has stood still from one call to the next. Raises as
        :meth:`records`.
        """
        places = self._places()
        behind = self._behind(places, ends)
        return {
            topic: {place.partition: place.position for place in places if place.topic == topic} for topic in behind
        }

    def progress(self) -> dict[str, TopicProgress]:
        """How far each topic is read. Raises as :meth:`records`."""
        places = self._places()
        if self._uncommitted is None:
            settings = {"group.id": "rillet-status", "isolation.level": "read_uncommitted"}
            self._uncommitted = self._kafka.consumer(settings, self._errors)
        # Asked after the ends of committed records: what comes in between counts as not read.
        ends = {
            topic: {partition: end for partition, (_, end) in self._ends_of(topic, self._uncommitted).items()}
            for topic in self._groups
        }
        behind = self._behind(places, {(topic, number): end for topic in ends for number, end in ends[topic].items()})
        found = {}
        for topic, of_topic in ends.items():
            own = [place for place in places if place.topic == topic]
            committed = {place.partition: place.end for place in own} == of_topic
            positions = {place.partition: place.position for place in own}
            begun = any(place.read for place in own)
            found[topic] = TopicProgress(of_topic, positions, committed and topic not in behind, begun)
        return found

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
        places = self._places()
        for topic, consumer in self._consumers.items():
            begin = [
                TopicPartition(topic, place.partition, place.first, _PUT_BACK)
                for place in places
                if place.topic == topic
            ]
            self._ask(consumer, partial(consumer.commit, offsets=begin, asynchronous=False))

    def _places(self) -> list[_Place]:
        if not self._consumers:
            raise ClosedError("the lag reader was not started, or is closed")
        places = []
        for topic, consumer in self._consumers.items():
            ends = self._ends_of(topic, consumer)
            partitions = [TopicPartition(topic, number) for number in ends]
            committed = self._ask(consumer, partial(consumer.committed, partitions, timeout=self._timeout_s))
            for entry in committed:
                first, end = ends[entry.partition]
                # A partition that was never committed has a negative offset.
                put_back, position = entry.metadata == _PUT_BACK, max(entry.offset, first)
                read = entry.offset > 0 and not put_back
                places.append(_Place(topic, entry.partition, first, end, position, put_back, read))
        self._errors.clear()
        return places

    def _ends_of(self, topic: str, consumer: Consumer) -> dict[int, tuple[int, int]]:
        ends = self._ask(consumer, partial(ends_by, self._kafka, consumer, topic, self._timeout_s))
        if ends is None:
            raise TopicError(f"topic {topic} on {self._kafka}: there is none; name it in [kafka.topics]")
        return ends

    def _behind(self, places: Iterable[_Place], ends: Ends) -> set[str]:
        """Topics with a record before these ends that is not read."""
        before, self._stuck_at = self._stuck_at, {}
        unread: dict[str, dict[int, tuple[int, int]]] = {}
        moved = set()
        for place in places:
            key = (place.topic, place.partition)
            if place.position >= (end := ends.get(key, 0)):
                continue
            self._stuck_at[key] = place.position
            if before.get(key) != place.position:
                moved.add(place.topic)
            if self._empty.get(key) != (place.position, end):
                unread.setdefault(place.topic, {})[place.partition] = (place.position, end)
        # Whether there are records is asked only of topics in which the group has not moved since the last call.
        stuck = {topic: spans for topic, spans in unread.items() if topic not in moved}
        return moved | {topic for topic, spans in stuck.items() if self._has_record(topic, spans)}

    def _has_record(self, topic: str, spans: Mapping[int, tuple[int, int]]) -> bool:
        """Whether a committed record lies in any partition's (position, end); True where that is not known."""
        consumer, left = self._consumers[topic], dict(spans)
        deadline_s = time.monotonic() + self._timeout_s
        try:
            consumer.assign([TopicPartition(topic, partition, position) for partition, (position, _) in spans.items()])
            while left:
                message = consumer.poll(max(0.0, deadline_s - time.monotonic()))
                if message is None:
                    return True
                error, partition = message.error(), message.partition()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise self._kafka.explain(error, self._errors)
                if partition not in left:
                    continue
                # At the end of what is committed the offset is where reading would go on.
                if (message.offset() or 0) < left[partition][1]:
                    return True
                self._empty[topic, partition] = left.pop(partition)
            return False
        except KafkaException as error:
            raise self._kafka.explain(error, self._errors) from error
        finally:
            consumer.unassign()

    def _ask(self, consumer: Consumer, request: Callable[[], Answer]) -> Answer:
        try:
            return request()
        except KafkaException as error:
            consumer.poll(0)  # why no broker answers is heard only here
            raise self._kafka.explain(error, self._errors) from error

    def close(self) -> None:
        """Leaves the broker."""
        consumers, self._consumers = [*self._consumers.values()], {}
        if self._uncommitted is not None:
            consumers.append(self._uncommitted)
            self._uncommitted = None
        for consumer in consumers:
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

"""What the broker knows of the loop's topics: how many records, how old the newest, how far their readers have got.

Connections are kept from one look to the next, and what has not changed is not read again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError, TopicError
from rillet.connectors.lag import GroupLag
from rillet.connectors.newest import newest_records
from rillet.inspection.facts import NEWEST_LETTERS, RefusedFacts, TopicFacts
from rillet.schemas import DecodeError, decode_dead_letter

Ranges = dict[int, tuple[int, int]]

_TIMEOUT_S = 3.0
#: offsets before the end at which the newest record is looked for: ends of transactions hold none
_BACK = (1, 8, 64, 512)
_REASONS = 5
#: written by Flink in transactions, whose ends take offsets that hold no record
_TRANSACTIONAL = ("examples", "dead_letters")
_QUOTED = re.compile(r"b?'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"-?\b(?:0x[0-9a-f]+|[0-9a-f]{8,}|\d[\d.,:eE+-]*)(?:\b|(?<=\.))")


class BrokerLook:
    """Looks at the topics of one loop; to be used by one thread."""

    def __init__(self, kafka: KafkaConnection, topics: Mapping[str, str], groups: Mapping[str, str]) -> None:
        """
        :param topics: what a topic holds, as ``[kafka.topics]`` calls it, to its name.
        :param groups: of those that a consumer group reads, the group.
        """
        self._kafka, self._names = kafka, dict(topics)
        self._errors = BrokerErrors()
        self._stack = ExitStack()
        self._consumer: Consumer | None = None
        self._lags = {
            kind: GroupLag(kafka, {topics[kind]: group}, timeout_s=_TIMEOUT_S) for kind, group in groups.items()
        }
        #: timestamp of the newest record of a partition, by topic, partition and end; and whether it stands at the end
        self._newest: dict[tuple[str, int, int], tuple[int | None, bool]] = {}
        self._letters: tuple[Ranges, tuple[RefusedFacts, ...]] = ({}, ())

    def topics(self) -> dict[str, TopicFacts]:
        """All topics by what they hold.

        :raises BrokerUnavailableError: no broker answers. BrokerRefusedError: it does not let us in.
        """
        try:
            ends = {kind: self._ends(name) for kind, name in self._names.items()}
            self._look_at_newest(ends)
        except KafkaException as error:
            raise self._kafka.explain(error, self._errors) from error
        return {kind: self._facts(kind, name, ends[kind]) for kind, name in self._names.items()}

    def refused(self) -> tuple[RefusedFacts, ...]:
        """Reasons among the newest dead letters, the most frequent first.

        :raises BrokerUnavailableError: as :meth:`topics`, BrokerRefusedError likewise.
        """
        topic = self._names["dead_letters"]
        try:
            ends = self._ends(topic) or {}
        except KafkaException as error:
            raise self._kafka.explain(error, self._errors) from error
        if ends != self._letters[0]:
            try:
                records, _ = newest_records(self._kafka, topic, NEWEST_LETTERS)
            except TopicError:  # it went between two questions
                records = []
            self._letters = ends, reasons(record.value or b"" for record in records)
        return self._letters[1]

    def waiting_since_ms(self, kind: str, position: int) -> int | None:
        """Timestamp of the first record of a topic's partition 0 from ``position`` on; None where it cannot be read."""
        consumer = self._client()
        found = None
        with suppress(KafkaException):
            consumer.assign([TopicPartition(self._names[kind], 0, position)])
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                found = int(message.timestamp()[1])
            consumer.unassign()
        return found

    def close(self) -> None:
        """Leaves the broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _client(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._kafka.consumer(
                {
                    "group.id": "rillet-status",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "latest",
                    "queued.max.messages.kbytes": 4096,
                },
                self._errors,
            )
            for lag in self._lags.values():
                self._stack.enter_context(lag)
        return self._consumer

    def _ends(self, topic: str) -> Ranges | None:
        consumer = self._client()
        metadata = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if metadata.error is not None and not metadata.partitions:
            if metadata.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise self._kafka.explain(metadata.error, self._errors)
            return None
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_TIMEOUT_S, cached=False)
            for number in sorted(metadata.partitions)
        }

    def _look_at_newest(self, ends: Mapping[str, Ranges | None]) -> None:
        """Reads the newest record of every partition that has changed since the last look."""
        wanted = {
            (self._names[kind], partition, end): first
            for kind, found in ends.items()
            for partition, (first, end) in (found or {}).items()
            if end > first
        }
        known = {place: newest for place, newest in self._newest.items() if place in wanted}
        missing = [place for place in wanted if place not in known]
        for back in _BACK:
            for (topic, partition), (offset, timestamp_ms) in self._last_of(missing, wanted, back).items():
                place = next(p for p in missing if p[:2] == (topic, partition))
                known[place] = timestamp_ms, offset == place[2] - 1
            missing = [place for place in missing if place not in known and place[2] - back > wanted[place]]
            if not missing:
                break
        self._newest = known | {place: (None, False) for place in wanted if place not in known}

    def _last_of(
        self, places: list[tuple[str, int, int]], firsts: Mapping[tuple[str, int, int], int], back: int
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Offset and timestamp of the last record among so many offsets before the ends, where there is one."""
        if not places:
            return {}
        consumer, found, open_ = self._client(), dict[tuple[str, int], tuple[int, int]](), set(places)
        consumer.assign([TopicPartition(t, p, max(firsts[t, p, end], end - back)) for t, p, end in places])
        ends = {(t, p): end for t, p, end in places}
        silent = 0.0
        while open_ and silent < _TIMEOUT_S:
            messages = consumer.consume(1_000, timeout=0.1)
            silent = 0.0 if messages else silent + 0.1
            for message in messages:
                at = str(message.topic()), int(message.partition() or 0)
                if at not in ends:
                    continue
                if message.error() is not None:
                    open_.discard((*at, ends[at]))
                    continue
                offset = int(message.offset() or 0)
                if offset < ends[at]:
                    found[at] = offset, int(message.timestamp()[1])
                if offset >= ends[at] - 1:
                    open_.discard((*at, ends[at]))
        consumer.unassign()
        return found

    def _facts(self, kind: str, name: str, ends: Ranges | None) -> TopicFacts:
        if ends is None:
            return TopicFacts(name)
        newest = [self._newest.get((name, partition, end)) for partition, (first, end) in ends.items() if end > first]
        times = [found[0] for found in newest if found is not None and found[0] is not None]
        records = sum(end - first for first, end in ends.values())
        at_end = all(found is not None and found[1] for found in newest)
        lag, awaits_checkpoint = self._lag(kind)
        return TopicFacts(
            name=name,
            partitions=len(ends),
            records=records,
            exact=records == 0 or (at_end and kind not in _TRANSACTIONAL),
            newest_ms=max(times, default=None),
            ends={partition: end for partition, (_, end) in ends.items()},
            lag_records=lag,
            awaits_checkpoint=awaits_checkpoint,
        )

    def _lag(self, kind: str) -> tuple[int | None, bool]:
        """None where it is not known, and whether the next checkpoint tells: a group may be nobody's to see."""
        lag = self._lags.get(kind)
        if lag is None:
            return None, False
        try:
            records = lag.known_records()
        except (TopicError, BrokerRefusedError, BrokerUnavailableError):
            return None, False
        return records, records is None


def reasons(letters: Iterable[bytes]) -> tuple[RefusedFacts, ...]:
    """Encoded dead letters by topic and reason, the most frequent first; numbers and quoted text make no other reason."""
    counts: Counter[tuple[str, str]] = Counter()
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    for data in letters:
        try:
            letter = decode_dead_letter(data)
        except DecodeError:
            topic, reason, refused_ms = "", "no dead letter: cannot be decoded", 0
        else:
            topic, reason, refused_ms = letter.topic, letter.reason, letter.refused_ms
        kind = topic, alike(reason)
        counts[kind] += 1
        newest[kind] = max(newest.get(kind, (0, reason)), (refused_ms, reason))
    return tuple(
        RefusedFacts(newest[kind][1], kind[0], count, newest[kind][0]) for kind, count in counts.most_common(_REASONS)
    )


def alike(reason: str) -> str:
    """A reason without what differs from record to record.

    >>> alike("spec_hash: written under feature spec 0x1f, ours is -0x2a (films)")
    'spec_hash: written under feature spec ..., ours is ... (films)'
    >>> alike("unknown schema: the record begins with 7b2270616765223a2030")
    'unknown schema: the record begins with ...'
    >>> alike("key: b'r-17' is not the request_id 'r-18'")
    'key: ... is not the request_id ...'
    """
    return _NUMBER.sub("...", _QUOTED.sub("...", reason))

"""Where a job without state begins to read the raw topics: at their beginnings, their ends, a time, or offsets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from confluent_kafka import Consumer, TopicPartition

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import TopicError
from rillet.connectors.topics import ask_consumer, topic_ends

_OFFSETS = re.compile(r"(\w+):(\d+)=(\d+)")
#: for one answer of the broker
_TIMEOUT_S = 10.0
FORMS = "earliest, latest, a time such as 2026-05-01T00:00Z, or offsets such as features:0=1200,actions:0=5400"


@dataclass(frozen=True, slots=True)
class StartAt:
    """Where to begin: at a time where there is one, else at offsets, else at the beginning or the end."""

    latest: bool = False
    #: milliseconds since 1970: the first record of each partition whose timestamp is not before it
    time_ms: int | None = None
    #: by kind of topic and partition
    offsets: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> StartAt:
        """As it is written on a command line.

        >>> StartAt.parse("2026-05-01T00:00Z").time_ms
        1777593600000
        >>> StartAt.parse("features:0=12,features:1=7,actions:0=3").offsets
        {'features': {0: 12, 1: 7}, 'actions': {0: 3}}

        :raises ValueError: it is none of :data:`FORMS`.
        """
        if text in ("earliest", "latest"):
            return cls(latest=text == "latest")
        if "=" not in text:
            return cls(time_ms=parse_time_ms(text))
        offsets: dict[str, dict[int, int]] = {}
        for part in text.split(","):
            match = _OFFSETS.fullmatch(part.strip())
            if match is None:
                raise ValueError(f"{text!r} is none of: {FORMS}")
            offsets.setdefault(match[1], {})[int(match[2])] = int(match[3])
        if set(offsets) != {"features", "actions"}:
            raise ValueError(f"{text!r} has offsets of {' and '.join(offsets)}: features and actions need some each")
        return cls(offsets=offsets)

    def settings(self, kind: str) -> dict[str, str]:
        """Of Flink's SQL source of one of the topics."""
        if self.time_ms is not None:
            return {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": str(self.time_ms)}
        if self.offsets:
            pairs = ";".join(f"partition:{number},offset:{offset}" for number, offset in self.offsets[kind].items())
            return {"scan.startup.mode": "specific-offsets", "scan.startup.specific-offsets": pairs}
        return {"scan.startup.mode": "latest-offset" if self.latest else "earliest-offset"}

    def check(self, kafka: KafkaConnection | str, topics: Mapping[str, str], now_ms: int) -> None:
        """Whether there is such a place: Flink would begin somewhere else without a word.

        :param topics: kind to name.
        :param now_ms: wall clock.
        :raises TopicError: a partition has no offset, or one that the topic does not hold; or the time has not come yet.
        """
        if self.time_ms is not None and self.time_ms > now_ms:
            time = datetime.fromtimestamp(self.time_ms / 1_000, UTC).isoformat(timespec="milliseconds")
            raise TopicError(
                f"--from {time} has not come yet: name an earlier time, or begin at the end of the topics with `--from latest`"
            )
        for kind, offsets in self.offsets.items():
            ends = _ends(kafka, topics[kind])
            if surplus := sorted(set(offsets) - set(ends)):
                raise TopicError(f"topic {topics[kind]} has no partition {surplus[0]}: it has {len(ends)}, from 0 on")
            for number, (first, end) in ends.items():
                if not first <= offsets.get(number, -1) <= end:
                    found = f"offset {offsets[number]}" if number in offsets else "no offset"
                    raise TopicError(
                        f"partition {number} of topic {topics[kind]} is given {found}; it holds {first} to {end}: name one for"
                        f" each of its partitions, {kind}:{number}=OFFSET"
                    )


def parse_time_ms(text: str) -> int:
    """Milliseconds since 1970 of a time in ISO 8601; one without a zone is refused, since it could be any.

    >>> parse_time_ms("2026-05-01T02:00+02:00")
    1777593600000

    :raises ValueError: it is no such time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of: {FORMS}") from None
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write {text}Z for UTC, or an offset such as +02:00")
    time_ms = round(time.timestamp() * 1_000)
    if time_ms < 0:
        raise ValueError(f"{text!r} lies before 1970, and no record has such a time")
    return time_ms


def cut_off(kafka: KafkaConnection | str, topics: Iterable[str], time_ms: int) -> dict[tuple[str, int], int]:
    """Partitions of which records were deleted that may have been of a time or later, and the first offset that they hold.

    Raises as :func:`ends_at`.
    """
    kafka, topics = KafkaConnection.of(kafka), list(topics)
    found = ends_at(kafka, topics, time_ms)
    firsts = {(topic, number): first for topic in topics for number, (first, _) in _ends(kafka, topic).items()}
    return {place: first for place, first in firsts.items() if 0 < first == found.get(place)}


def ends_at(kafka: KafkaConnection | str, topics: Iterable[str], time_ms: int) -> dict[tuple[str, int], int]:
    """Offset of the first record in each partition whose timestamp is not before a time; the end where there is none.

    :raises TopicError: a topic is missing.
    :raises ConnectorError: the broker does not answer, or refuses.
    """
    kafka = KafkaConnection.of(kafka)
    found: dict[tuple[str, int], int] = {}
    for topic in topics:
        ends = _ends(kafka, topic)
        wanted = [TopicPartition(topic, number, time_ms) for number in ends]
        entries = ask_consumer(kafka, partial(_offsets_for_times, wanted=wanted))
        found |= {(topic, one.partition): ends[one.partition][1] if one.offset < 0 else one.offset for one in entries}
    return found


def _offsets_for_times(consumer: Consumer, wanted: list[TopicPartition]) -> list[TopicPartition]:
    return consumer.offsets_for_times(wanted, timeout=_TIMEOUT_S)


def _ends(kafka: KafkaConnection | str, topic: str) -> dict[int, tuple[int, int]]:
    ends = topic_ends(kafka, topic, _TIMEOUT_S)
    if ends is None:
        raise TopicError(f"topic {topic} on {kafka}: there is none; name it in [kafka.topics]")
    return ends

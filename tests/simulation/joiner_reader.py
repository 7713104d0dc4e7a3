"""What an engine's sources do to event time: partitions read at a pace, watermarks of each, alignment, and idle ones left out.

It is what Flink does with the two raw topics (``jobs/joiner_job.py``), with a joiner and its held time after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

from rillet.connectors.lag import TopicProgress
from rillet.connectors.silence import TopicState
from rillet.joiner import HeldTime
from rillet.schemas import RecordError
from tests.joiner.support import LATENESS_MS
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_traffic import Sent

BUCKETS = 4
TOPICS = ("features", "actions")
_NEVER_MS = -(1 << 62)


@dataclass
class Partition:
    """One partition, and how far it is read; times of arrival and reading are of the wall clock."""

    #: (time of arrival, record), by arrival
    records: Sequence[tuple[int, Sent]]
    position: int = 0
    watermark_ms: int = _NEVER_MS
    #: when it last gave something
    read_ms: int = 0
    #: since when it would count as idle: a pause is not idleness
    idle_since_ms: int = 0
    #: when it was added, and when the reader finds it
    added_ms: int = 0
    found_ms: int = 0

    def end(self, now_ms: int) -> int:
        """How many records have arrived."""
        return bisect_right(self.records, now_ms, key=lambda record: record[0])

    def has_record(self, now_ms: int) -> bool:
        return self.position < len(self.records) and self.records[self.position][0] <= now_ms


@dataclass
class Reader:
    """Reads partitions into an engine, a few records of each in turn.

    :param idle_ms: a partition that gave nothing for so long is left out of the watermark; a topic of which nothing has
        come for half of it, and all of which is read, is silent.
    :param drift_ms: how far one partition is read ahead of the others.
    """

    engine: Engine
    partitions: dict[str, Partition]
    hold_ms: int
    idle_ms: int
    drift_ms: int
    now_ms: int
    watermark_ms: int = _NEVER_MS
    #: while the broker is away
    outage: range = range(0)
    refused: int = 0
    time: HeldTime = field(init=False)
    topics: dict[str, TopicState] = field(init=False)

    def __post_init__(self) -> None:
        self.time = HeldTime(self.hold_ms)
        self.topics = {topic: TopicState(self.now_ms / 1_000, self.idle_ms / 1_000) for topic in TOPICS}
        for partition in self.partitions.values():
            partition.read_ms = partition.idle_since_ms = self.now_ms

    def step(self, records: int) -> None:
        """Reads at most so many records of each partition that is not paused, then lets time go on."""
        slowest_ms = min(self._active(), default=_NEVER_MS)
        for partition in self.partitions.values():
            if self.now_ms < partition.found_ms or partition.watermark_ms > slowest_ms + self.drift_ms:
                partition.idle_since_ms = self.now_ms
                continue
            for _ in range(records):
                if not partition.has_record(self.now_ms):
                    break
                self._take(partition)
        if active := self._active():
            self.watermark_ms = max(self.watermark_ms, min(active))
        if self.now_ms % (self.idle_ms // 4) == 0:
            for name, topic in self.topics.items():
                self._check(name, topic)
        held = any(topic.holds for topic in self.topics.values())
        self.engine.watermark(self.time.at(self.watermark_ms, held))

    @property
    def done(self) -> bool:
        return all(partition.position == len(partition.records) for partition in self.partitions.values())

    def _take(self, partition: Partition) -> None:
        sent = partition.records[partition.position][1]
        partition.position += 1
        partition.read_ms = partition.idle_since_ms = self.now_ms
        key = sent.arrival.key or b""
        try:
            self.engine.record(crc32(key) % BUCKETS, sent.arrival.data, sent.arrival.ingest_ms, key)
        except RecordError:
            self.refused += 1
        partition.watermark_ms = max(partition.watermark_ms, sent.reached_ms - LATENESS_MS - 1)

    def _active(self) -> list[int]:
        return [
            partition.watermark_ms
            for partition in self.partitions.values()
            if self.now_ms >= partition.found_ms
            and (partition.has_record(self.now_ms) or self.now_ms - partition.idle_since_ms < self.idle_ms)
        ]

    def _check(self, name: str, topic: TopicState) -> None:
        if self.now_ms in self.outage:
            topic.lose()
            return
        partitions = [
            partition
            for key, partition in self.partitions.items()
            if key.startswith(name) and partition.added_ms <= self.now_ms
        ]
        ends = {number: partition.end(self.now_ms) for number, partition in enumerate(partitions)}
        positions = {number: partition.position for number, partition in enumerate(partitions)}
        unread = any(positions[number] < end for number, end in topic.awaited.items())
        topic.check(TopicProgress(ends, positions, positions == ends), self.now_ms / 1_000, unread=unread)

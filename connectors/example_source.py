"""The examples topic as the trainer's source, and the way out for records that it refuses.

Committed records only, from positions that the trainer's checkpoint holds: no consumer group, no offset
committed to the broker. Broker outages are waited out.
"""

from __future__ import annotations

import json
import logging

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from rillet.connectors.connection import BrokerErrors, KafkaConnection
from rillet.connectors.errors import BrokerRefusedError, TopicError
from rillet.connectors.lag import PositionLag
from rillet.connectors.limits import FETCH_BYTES
from rillet.connectors.topics import topic_ends
from rillet.schemas import ClosedError
from rillet.trainer import Positions, RawRecord

log = logging.getLogger(__name__)

#: What no waiting mends.
_HOPELESS = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}
#: how soon the end of an outage is noticed while nothing is read, and new ends of partitions
_STATISTICS_MS = 1000


class KafkaExampleSource:
    """All partitions of the examples topic, each in order, from given positions on; a :class:`rillet.schemas.Source`."""

    def __init__(
        self,
        kafka: KafkaConnection | str,
        topic: str,
        positions: Positions,
        *,
        until_latest: bool,
        group: str = "rillet-train",
    ) -> None:
        """
        :param positions: where to go on; partitions not named are read from their beginning.
        :param until_latest: end at the ends that the partitions have at the start.
        :param group: consumer group, for its rights alone: nothing is committed to it.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._topic = topic
        self._positions = dict(positions)
        self._until_latest = until_latest
        self._group = group
        self._where = f"topic {topic} on {self._kafka}"
        self._errors = BrokerErrors()
        self._consumer: Consumer | None = None
        #: partitions still to be read and where their reading ends
        self._ends: dict[int, int] | None = None
        self._lag = PositionLag({})
        #: what the broker last complained of, empty while all is well
        self.trouble = ""

    def start(self) -> None:
        """Connects and begins to fetch.

        :raises TopicError: there is no such topic, or a position lies outside of it.
        :raises BrokerRefusedError: the broker does not let us in.
        :raises BrokerUnavailableError: no broker answers.
        """
        ends = topic_ends(self._kafka, self._topic)
        if ends is None:
            raise TopicError(f"{self._where}: there is none; name it in [kafka.topics]")
        for partition, (offset, _) in self._positions.items():
            first, end = ends.get(partition, (0, -1))
            if not first <= offset <= end:
                raise TopicError(
                    f"{self._where}: reading is to go on at offset {offset} of partition {partition}, which holds {first}"
                    f" to {end}; if the topic was made anew, begin anew as well: `rillet reset --model` before"
                    " `rillet train`, another folder for `rillet dump --to`"
                )
        starts = {number: self._positions.get(number, (first, 0))[0] for number, (first, _) in ends.items()}
        self._lag = PositionLag({number: (starts[number], end) for number, (_, end) in ends.items()})
        if self._until_latest:
            self._ends = {number: end for number, (_, end) in ends.items() if starts[number] < end}
        self._consumer = self._kafka.consumer(
            {
                "group.id": self._group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": 4 * FETCH_BYTES >> 10,
                "fetch.message.max.bytes": FETCH_BYTES,
                "statistics.interval.ms": _STATISTICS_MS,
                "stats_cb": self._on_statistics,
            },
            self._errors,
        )
        self._consumer.assign(
            [
                TopicPartition(self._topic, number, self._positions.get(number, (OFFSET_BEGINNING, 0))[0])
                for number in ends
            ]
        )

    def poll(self, max_items: int, timeout_s: float) -> list[RawRecord] | None:
        """The next records, None once every partition has reached its end (``until_latest`` only).

        :raises TopicError: the position is gone.
        :raises BrokerRefusedError: reading is not allowed.
        :raises ClosedError: not started, or closed.
        """
        if self._consumer is None:
            raise ClosedError(f"{self._where}: the source was not started, or is closed")
        if self._ends is not None and not self._ends:
            return None
        try:
            messages = self._consumer.consume(max_items, timeout=timeout_s)
        except KafkaException as error:
            raise self._kafka.explain(error, self._errors) from error
        if (heard := self._errors.last) is not None:
            self._errors.clear()
            self._wait_out(heard)
        records: list[RawRecord] = []
        for message in messages:
            if message.error() is not None:
                self._note(message)
                continue
            self._recovered()
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            if self._ends is not None:
                end = self._ends.get(partition, -1)
                if offset >= end - 1:
                    self._ends.pop(partition, None)
                if offset >= end:
                    continue
            self._lag.given(partition, offset)
            records.append(RawRecord(partition, offset, message.value() or b"", message.key()))
        return records

    def lag(self, positions: Positions) -> int:
        """Records of the topic after ``positions``, as of about a second ago; see :class:`PositionLag`."""
        return self._lag.records(positions)

    def close(self) -> None:
        """Leaves the broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _note(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            # The end of what is committed; past the last record there may be transaction markers.
            partition = int(message.partition() or 0)
            self._lag.reached_end(partition, int(message.offset() or 0))
            if self._ends is not None:
                self._ends.pop(partition, None)
            return
        if error.code() in _HOPELESS or error.fatal():
            explained = self._kafka.explain(error)
            if isinstance(explained, BrokerRefusedError):
                raise explained
            raise TopicError(f"{self._where}, partition {message.partition()}: {error.str()}")
        self._wait_out(error)

    def _wait_out(self, error: KafkaError) -> None:
        text = self._kafka.redact(error.str())
        if not self.trouble:
            log.warning("%s: %s; waiting", self._where, text)
        self.trouble = text

    def _recovered(self) -> None:
        if self.trouble:
            log.info("%s: the broker answers again", self._where)
        self.trouble = ""
        self._errors.clear()

    def _on_statistics(self, text: str) -> None:
        """Ends of partitions, and the end of trouble.

        Trouble ends with a record; on a quiet topic, when the leader of every partition is connected again.
        """
        statistics = json.loads(text)
        partitions = {
            int(number): partition
            for number, partition in statistics["topics"].get(self._topic, {}).get("partitions", {}).items()
            if number != "-1"
        }
        for number, partition in partitions.items():
            self._lag.end_is(number, partition["ls_offset"])
        if not self.trouble or self._errors.last is not None:
            return
        connected = {broker["nodeid"] for broker in statistics["brokers"].values() if broker["state"] == "UP"}
        leaders = {partition["leader"] for partition in partitions.values()}
        if leaders and leaders <= connected:
            self._recovered()

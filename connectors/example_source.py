"""The examples topic as the trainer's source, and the way out for records that it refuses.

Committed records only, from positions that the trainer's checkpoint holds: no consumer group, no offset
committed to the broker. Broker outages are waited out.
"""

from __future__ import annotations

import logging

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from rillet.connectors.errors import BrokerUnavailableError, TopicError
from rillet.connectors.topics import client_settings, topic_ends
from rillet.schemas import ClosedError
from rillet.trainer import Positions, RawRecord

log = logging.getLogger("rillet.train")

#: A letter has to fit into one record of the topic, in base64: of a longer record only so much is kept.
_LETTER_BYTES = 8 << 20

#: Letters waiting for the broker, in all; reading stops above it.
_QUEUE_BYTES = 64 << 20

#: What no waiting mends.
_HOPELESS = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError._AUTHENTICATION,
}


class KafkaExampleSource:
    """All partitions of the examples topic, each in order, from given positions on."""

    def __init__(self, bootstrap_servers: str, topic: str, positions: Positions, *, until_latest: bool) -> None:
        """
        :param positions: where to go on; partitions not named are read from their beginning.
        :param until_latest: end at the ends that the partitions have now.
        :raises TopicError: there is no such topic, or a position lies outside of it.
        :raises BrokerUnavailableError: no broker answers.
        """
        ends = topic_ends(bootstrap_servers, topic)
        if ends is None:
            raise TopicError(f"topic {topic} on {bootstrap_servers}: there is none; name it in [kafka.topics]")
        self._where = f"topic {topic} on {bootstrap_servers}"
        for partition, (offset, _) in positions.items():
            first, end = ends.get(partition, (0, -1))
            if not first <= offset <= end:
                raise TopicError(
                    f"{self._where}: the checkpoint goes on at offset {offset} of partition {partition}, which holds"
                    f" {first} to {end}; if the topic was made anew, remove the checkpoints to train from its beginning"
                )
        #: partitions still to be read and where their reading ends
        self._ends: dict[int, int] | None = None
        if until_latest:
            starts = {number: positions.get(number, (first, 0))[0] for number, (first, _) in ends.items()}
            self._ends = {number: end for number, (_, end) in ends.items() if starts[number] < end}
        self._consumer = Consumer(
            client_settings(
                bootstrap_servers,
                **{
                    "group.id": "rillet-train",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "error",
                    "queued.max.messages.kbytes": 32_768,
                    "fetch.message.max.bytes": 8 << 20,
                },
            )
        )
        self._consumer.assign(
            [TopicPartition(topic, number, positions.get(number, (OFFSET_BEGINNING, 0))[0]) for number in ends]
        )
        #: what the broker last complained of, empty while all is well
        self.trouble = ""
        self._closed = False

    def start(self) -> None:
        """Nothing to start: the client fetches from its construction on."""

    def flush(self, timeout_s: float) -> None:
        """Nothing is submitted to a source: returns at once."""

    def poll(self, max_items: int, timeout_s: float) -> list[RawRecord] | None:
        """The next records, None once every partition has reached its end (``until_latest`` only).

        :raises TopicError: the position is gone, or reading is not allowed.
        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError(f"{self._where}: the source is closed")
        if self._ends is not None and not self._ends:
            return None
        try:
            messages = self._consumer.consume(max_items, timeout=timeout_s)
        except KafkaException as error:
            raise BrokerUnavailableError(f"{self._where}: {error.args[0].str()}") from error
        records: list[RawRecord] = []
        for message in messages:
            if message.error() is not None:
                self._note(message)
                continue
            self.trouble = ""
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            if self._ends is not None:
                end = self._ends.get(partition, -1)
                if offset >= end - 1:
                    self._ends.pop(partition, None)
                if offset >= end:
                    continue
            records.append(RawRecord(partition, offset, message.value() or b"", message.key()))
        return records

    def close(self) -> None:
        """Leaves the broker."""
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _note(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            # The end of what is committed; past the last record there may be transaction markers.
            if self._ends is not None:
                self._ends.pop(int(message.partition() or 0), None)
            return
        if error.code() in _HOPELESS or error.fatal():
            raise TopicError(f"{self._where}, partition {message.partition()}: {error.str()}")
        if not self.trouble:
            log.warning("%s: %s; waiting", self._where, error.str())
        self.trouble = error.str()

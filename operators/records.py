"""Records as the SQL of ``operators/topic_sql.py`` hands them over to Python, taken apart and put together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pyflink.common import Row

from rillet.connectors.dead_letters import letter_for
from rillet.connectors.producers import INGEST_HEADER
from rillet.schemas import NO_TIME_MS, RecordError, encode_dead_letter


class JoinRecord(NamedTuple):
    """A record as it lay in Kafka; a tuple, because one is made per record.

    :param timestamp: the record's, as text of UTC ("2024-05-01 12:00:00.000"), because Flink's SQL has no cheaper form
        of it; empty where it has none.
    :param headers: how many names of headers it had; of them only ``ingest_ms`` is read, the last where it has several.
    :param converted: key and value are those of the native record that was made of it.
    :param own_ingest: ``ingest`` is its header; of a converted record it may be made of the timestamp.
    """

    topic: str
    partition: int
    offset: int
    timestamp: str
    headers: int
    key: bytes | None
    ingest: bytes | None
    value: bytes | None
    converted: bool = False
    own_ingest: bool = True

    @property
    def timestamp_ms(self) -> int:
        """Epoch milliseconds, -1 where unknown."""
        if not self.timestamp:
            return NO_TIME_MS
        try:
            since = datetime.fromisoformat(self.timestamp).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        except ValueError:
            # A producer may stamp any number; of a year that has no four digits a letter says nothing.
            return NO_TIME_MS
        return since // timedelta(milliseconds=1)


def split_record(data: bytes) -> JoinRecord:
    """Takes apart what the SQL of ``operators/topic_sql.py`` makes of a record.

    One line, ``topic,partition,offset,timestamp,headers,key length,ingest length,sign``, then key, ingest header
    and value. A length of -1 and the sign ``-`` stand for a key, header and value that is not there. The sign is ``c``
    where ``operators/conversion_function.py`` has converted the record, and ``t`` where the ingest time, too, is its doing.
    """
    line_end = data.index(b"\n")
    line = data[:line_end].decode()
    topic, partition, offset, timestamp, headers, key_length, ingest_length, sign = line.split(",")
    begin = line_end + 1
    key_end = begin + max(int(key_length), 0)
    ingest_end = key_end + max(int(ingest_length), 0)
    return JoinRecord(
        topic,
        int(partition),
        int(offset),
        timestamp,
        int(headers),
        None if key_length == "-1" else data[begin:key_end],
        None if ingest_length == "-1" else data[key_end:ingest_end],
        None if sign == "-" else data[ingest_end:],
        sign in ("c", "t"),
        sign != "t",
    )


def join_record(record: JoinRecord) -> bytes:
    """The inverse of :func:`split_record`."""
    key, ingest, value = record.key, record.ingest, record.value
    sign = "-" if value is None else "+" if not record.converted else "c" if record.own_ingest else "t"
    line = (
        f"{record.topic},{record.partition},{record.offset},{record.timestamp},{record.headers},"
        f"{-1 if key is None else len(key)},{-1 if ingest is None else len(ingest)},{sign}\n"
    )
    return line.encode() + (key or b"") + (ingest or b"") + (value or b"")


def dead_letter_row(error: RecordError, record: JoinRecord) -> Row:
    """The row of a dead letter: key and letter."""
    headers = [(INGEST_HEADER, record.ingest)] if record.ingest is not None and record.own_ingest else []
    if record.converted:
        error = RecordError(f"{error}; key and value are of the native record that was made of the one at this place")
    letter = letter_for(
        error,
        record.topic,
        record.partition,
        record.offset,
        key=record.key,
        value=record.value,
        timestamp_ms=record.timestamp_ms,
        headers=headers,
        more_headers=record.headers > len(headers),
    )
    return Row(letter.letter_key, encode_dead_letter(letter))

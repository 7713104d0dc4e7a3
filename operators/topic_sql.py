"""The SQL with which Flink reads a raw topic: its table, and the query that makes one field of bytes of each record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rillet.operators.key_groups import bucket_keys

if TYPE_CHECKING:
    from rillet.connectors.config import KafkaConfig
    from rillet.connectors.start_positions import StartAt

#: SQL for the event time that a record shows to be reached: its timestamp, but no later than it was sent. On a backlog the
#: clock bounds nothing, and one event from the future would make all that comes after it in its partition late. Null, which
#: moves nothing, where the header is no time; without a header the clock of the reader is all there is.
_REACHED = """LEAST(ts, CURRENT_TIMESTAMP, CASE WHEN headers['ingest_ms'] IS NULL THEN ts ELSE
                TO_TIMESTAMP_LTZ(TRY_CAST(DECODE(headers['ingest_ms'], 'ISO-8859-1') AS BIGINT), 3) END)"""


def source_table(
    table: str,
    kafka: KafkaConfig,
    topic: str,
    group: str,
    start: StartAt,
    *,
    lateness_ms: int,
    max_drift_ms: int,
) -> str:
    """DDL of a raw topic. The record's timestamp is the event time.

    :param table: what it is called, and what the topic holds: features or actions.
    :param group: consumer group under which the job commits how far its checkpoints have read it.
    :param start: where a job without state begins to read.
    :param lateness_ms: distance of the watermark behind the newest event time of each partition.
    :param max_drift_ms: how far partitions may be apart in event time while they are read side by side; 0 = no limit.
    """
    client = {f"properties.{name}": value for name, value in kafka.flink_settings.items()}
    more = (
        client
        | {
            "connector": "kafka",
            "topic": topic,
            "properties.bootstrap.servers": kafka.bootstrap_servers,
            "properties.isolation.level": "read_committed",
            "properties.group.id": group,
            "key.format": "raw",
            "key.fields": "k",
            "value.format": "raw",
            "value.fields-include": "EXCEPT_KEY",
        }
        | start.settings(table)
    )
    if max_drift_ms:
        more["scan.watermark.alignment.group"] = "rillet"
        more["scan.watermark.alignment.max-drift"] = f"{max_drift_ms} ms"
        more["scan.watermark.alignment.update-interval"] = "200 ms"
    pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in more.items())
    return f"""
        CREATE TEMPORARY TABLE `{table}` (
            k BYTES,
            v BYTES,
            `partition` INT METADATA VIRTUAL,
            `offset` BIGINT METADATA VIRTUAL,
            headers MAP<STRING, BYTES> METADATA VIRTUAL,
            ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
            WATERMARK FOR ts AS {_earlier(_REACHED, lateness_ms)}
        ) WITH ({pairs})"""


def records_query(topic: str, table: str, buckets: int) -> str:
    """(key of the bucket, record as :func:`rillet.operators.records.split_record` takes it).

    Text of one byte per character carries the bytes through SQL.
    """
    key = "COALESCE(DECODE(k, 'ISO-8859-1'), '')"
    ingest = "COALESCE(DECODE(headers['ingest_ms'], 'ISO-8859-1'), '')"
    return f"""
        SELECT
            ARRAY[{", ".join(map(str, bucket_keys(buckets)))}][MOD(MOD(HASH_CODE({key}), {buckets}) + {buckets}, {buckets}) + 1],
            ENCODE(CONCAT(
                '{topic},', CAST(`partition` AS STRING), ',', CAST(`offset` AS STRING), ',',
                COALESCE(CAST(ts AS STRING), ''), ',', CAST(COALESCE(CARDINALITY(headers), 0) AS STRING), ',',
                CAST(CASE WHEN k IS NULL THEN -1 ELSE CHAR_LENGTH({key}) END AS STRING), ',',
                CAST(CASE WHEN headers['ingest_ms'] IS NULL THEN -1 ELSE CHAR_LENGTH({ingest}) END AS STRING), ',',
                CASE WHEN v IS NULL THEN '-' ELSE '+' END,
                U&'\\000A', {key}, {ingest}, COALESCE(DECODE(v, 'ISO-8859-1'), '')
            ), 'ISO-8859-1')
        FROM `{table}`"""  # noqa: S608 - topic names are checked, and come from our own configuration


def nothing_table(table: str) -> str:
    """DDL of a source that goes on for ever, and is never idle as Flink sees it."""
    return f"""
        CREATE TEMPORARY TABLE `{table}` (n INT)
        WITH ('connector' = 'datagen', 'rows-per-second' = '1', 'fields.n.min' = '0', 'fields.n.max' = '0')"""


def nothing_query(table: str) -> str:
    """None of its rows, in the form of :func:`records_query`. The planner does not know that there are none."""
    return f"SELECT n, ENCODE('', 'ISO-8859-1') FROM `{table}` WHERE n > 0"  # noqa: S608 - a name of our own


def _quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _earlier(column: str, span_ms: int) -> str:
    """SQL for a time that lies a span before a column; interval literals have two digits a unit."""
    seconds, milliseconds = divmod(span_ms, 1000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
    return f"{column} - INTERVAL '{days} {clock}' DAY(3) TO SECOND(3)"

"""What PyFlink's interface lacks for the joiner's graph: keys without Python, uids for all operators, a sink of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyflink.common import Duration, Types, WatermarkStrategy
from pyflink.common.serialization import RowFieldExtractorSchema
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaRecordSerializationSchema, KafkaSink
from pyflink.datastream.data_stream import DataStream, KeyedStream
from pyflink.java_gateway import get_gateway

from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.operators.flink_config import joiner_name
from rillet.operators.joiner_function import BYTES

if TYPE_CHECKING:
    from rillet.connectors.config import KafkaConfig
    from rillet.sources import Kind


#: until then, a stream without records holds the watermark of all others
_IDLE_MS = 100


def key_by_bucket(rows: DataStream) -> KeyedStream:
    """Keys (key, bytes) rows on the JVM; the process function then receives the bytes alone.

    ``DataStream.key_by`` would send every record through a Python operator just to find its key. PyFlink's
    own key selector on an existing key column does without.
    """
    key_type = Types.ROW([Types.INT()])
    selector = get_gateway().jvm.org.apache.flink.streaming.api.functions.python.KeyByKeySelector()
    return KeyedStream(rows._j_data_stream.keyBy(selector, key_type.get_java_type_info()), BYTES, rows)


def name_others(env: StreamExecutionEnvironment, topic_ids: Mapping[Kind, str]) -> None:
    """Gives a uid to each operator that SQL and PyFlink have made: the state of one without hangs on its place in the graph.

    A topic's reader keeps its offsets under its own. It goes on at them whatever topic it is given then, so the topic's id is
    a part of the uid. The others keep nothing, and are numbered.
    """
    sinks = env._j_stream_execution_environment.getTransformations()
    every = {one.getId(): one for sink in sinks for one in sink.getTransitivePredecessors()}
    for number, (_, transformation) in enumerate(sorted(every.items())):
        if transformation.getClass().getSimpleName() == "SourceTransformation":
            table = transformation.getName().rpartition(".")[2]
            transformation.setUid("-".join(filter(None, ("read", table, topic_ids.get(table)))))
        elif transformation.getUid() is None:
            transformation.setUid(f"stateless-{number}")


def union(streams: list[DataStream]) -> DataStream:
    """All records of streams of one type."""
    return streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]


def end_of_time(nothing: DataStream) -> DataStream:
    """Lets the last watermark of a drain through where all topics are idle.

    A source that is idle is taken out of the watermark, with all that it sends, at a drain as well: no window would close
    (FLINK-40499). This stream comes from a source that is not idle and has no records. Its watermarks are made in an operator
    of its own, which is idle, and no longer is when it is drained.

    One of it is enough: what it says goes to all that join, and each task more takes network buffers from them.

    :param nothing: a stream that never ends and has no records.
    """
    for transformation in nothing._j_data_stream.getTransformation().getTransitivePredecessors():
        transformation.setParallelism(1)
    strategy = WatermarkStrategy.for_monotonous_timestamps().with_idleness(Duration.of_millis(_IDLE_MS))
    return nothing.assign_timestamps_and_watermarks(strategy).set_parallelism(1).name("end of time")


def exactly_once_sink(kafka: KafkaConfig, topic: str, transaction_timeout_ms: int) -> KafkaSink:
    """Writes (key, value) rows to a topic, in transactions that end with a checkpoint."""
    record = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(topic)
        .set_key_serialization_schema(RowFieldExtractorSchema(0))
        .set_value_serialization_schema(RowFieldExtractorSchema(1))
        .build()
    )
    builder = KafkaSink.builder()
    for name, value in kafka.flink_settings.items():
        builder.set_property(name, value)
    return (
        builder.set_bootstrap_servers(kafka.bootstrap_servers)
        .set_record_serializer(record)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(f"{joiner_name(kafka.topics.examples)}-{topic}")
        .set_property("transaction.timeout.ms", str(transaction_timeout_ms))
        .set_property("max.request.size", str(RECORD_MAX_BYTES))
        .set_property("compression.type", "lz4")
        .build()
    )

"""Converts a topic that is not in the native format, in front of the join: a Python operator on that topic alone.

Takes records as the SQL of ``operators/topic_sql.py`` hands them over, and gives native ones in the same form, with the
key of their request's bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import ProcessFunction, RuntimeContext

from rillet.connectors.schema_registry import SchemaRegistry
from rillet.joiner import LackMetrics, RefusalMetrics
from rillet.operators.joiner_function import BYTES, DEAD_LETTERS
from rillet.operators.key_groups import bucket_keys
from rillet.operators.records import dead_letter_row, join_record, split_record
from rillet.schemas import NO_TIME_MS, RecordError, SpecRegistry
from rillet.sources import Kind, SourceError, SourcesConfig, load_schema, make_converter

#: (key of the bucket, record)
KEY_RECORD = Types.ROW([Types.INT(), BYTES])
#: well below a checkpoint's timeout: a barrier has to wait for as long
_REGISTRY_WAIT_S = 120.0


class ConversionFunction(ProcessFunction):  # type: ignore[misc]
    """Makes native records; what does not fit is a dead letter with the record as it lay.

    A schema registry that does not answer stalls the topic; after two minutes the task fails, and Flink restarts it from its
    checkpoint.

    :raises SourceError: source and spec do not fit each other, or the schema file cannot be used.
    """

    def __init__(
        self, kind: Kind, specs: SpecRegistry, sources: SourcesConfig, *, buckets: int, max_ahead_ms: int
    ) -> None:
        source = getattr(sources, kind)
        # Read where the job is built: a cluster's workers do not have the file.
        self._schema = load_schema(source.schema) if source.schema else None
        # Refuses settings that cannot work here, not in a task that would be restarted.
        make_converter(kind, specs.current, sources, also_accepts=specs.others)
        self._registry = source.registry
        self._kind = kind
        self._specs = specs
        self._sources = sources
        self._keys = bucket_keys(buckets)
        self._max_ahead_ms = max_ahead_ms

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes the converter."""
        converter = make_converter(
            self._kind,
            self._specs.current,
            self._sources,
            schema=self._schema,
            schema_of=SchemaRegistry(self._registry, wait_s=_REGISTRY_WAIT_S).schema,
            max_ahead_ms=self._max_ahead_ms,
            also_accepts=self._specs.others,
        )
        if converter is None:
            raise SourceError(f"sources.{self._kind}: the topic is native, there is nothing to convert")
        self._converter = converter
        self._refusals = RefusalMetrics(runtime_context.get_metrics_group())
        self._lacks = LackMetrics(runtime_context.get_metrics_group())

    def process_element(self, value: Any, ctx: ProcessFunction.Context) -> Iterator[Any]:
        """One record of the topic, with a bucket of which nothing is known yet."""
        record = split_record(bytes(value[1]))
        try:
            native = self._converter.native(record.key, record.value, record.ingest, record.timestamp_ms)
        except RecordError as error:
            self._refusals.add(error)
            yield DEAD_LETTERS, dead_letter_row(error, record)
            return
        self._lacks.add(native.lacking)
        if native.value != record.value:
            ingest = None if native.ingest_ms == NO_TIME_MS else str(native.ingest_ms).encode()
            own_ingest = record.ingest is not None
            record = record._replace(
                key=native.key, value=native.value, ingest=ingest, converted=True, own_ingest=own_ingest
            )
        yield Row(self._keys[bucket_of(native.key, len(self._keys))], join_record(record))


def bucket_of(key: bytes | None, buckets: int) -> int:
    """The bucket that the SQL of ``operators/topic_sql.py`` gives a key.

    Flink's HASH_CODE is the absolute value of Java's ``String.hashCode``; each character is a byte of the key. The absolute
    value of the smallest integer is itself.
    """
    code = 0
    for byte in key or b"":
        code = (code * 31 + byte) & 0xFFFFFFFF
    if code > 1 << 31:
        code = (1 << 32) - code
    return (-code if code == 1 << 31 else code) % buckets

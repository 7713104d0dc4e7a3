"""The two raw topics as native records, in whatever format they are: for all who read them outside of Flink."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rillet.connectors.producers import INGEST_HEADER
from rillet.connectors.schema_registry import SchemaRegistry
from rillet.connectors.topic_reader import UNREADABLE_MS, TopicRecord
from rillet.schemas import MAX_AHEAD_MS, FeatureSpec, RecordError, parse_ingest_ms
from rillet.sources import Converter, Kind, SourcesConfig, load_schema, make_converter


def connected_converter(
    kind: Kind,
    spec: FeatureSpec,
    sources: SourcesConfig,
    *,
    max_ahead_ms: int = MAX_AHEAD_MS,
    also_accepts: Iterable[FeatureSpec] = (),
) -> Converter | None:
    """The converter of a topic with its schema file read, or its schema registry; None for a native topic.

    What :class:`SchemaRegistry` raises, it raises as records are converted.

    :param also_accepts: see :func:`rillet.sources.make_converter`.
    :raises SourceError: source and specs do not fit each other, or the schema file cannot be used.
    """
    source = getattr(sources, kind)
    return make_converter(
        kind,
        spec,
        sources,
        schema=load_schema(source.schema) if source.schema else None,
        schema_of=SchemaRegistry(source.registry).schema,
        max_ahead_ms=max_ahead_ms,
        also_accepts=also_accepts,
    )


def native_record(record: TopicRecord, converter: Converter | None) -> TopicRecord:
    """The record in the native format, with the ingest time that the joiner takes for it.

    :raises RecordError: it does not fit, or its ingest time is none.
    :raises RegistryUnavailableError: the schema registry does not answer.
    """
    ingest = dict(record.headers).get(INGEST_HEADER)
    if converter is None:
        return replace(record, ingest_ms=parse_ingest_ms(ingest))
    native = converter.native(record.key, record.value, ingest, record.timestamp_ms)
    return replace(record, key=native.key, value=native.value, ingest_ms=native.ingest_ms)


def native_or_unusable(record: TopicRecord, converter: Converter | None) -> TopicRecord:
    """:func:`native_record`; of one that does not fit whoever decodes the result will find it unusable.

    :raises RegistryUnavailableError: the schema registry does not answer.
    """
    try:
        return native_record(record, converter)
    except RecordError:
        return replace(record, value=None, ingest_ms=UNREADABLE_MS)

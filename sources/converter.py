"""From the records of a topic as they are to records of our own: what the joiner, recordings and the audit read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from traceback import extract_tb
from typing import Any, Literal, NamedTuple

from rillet.schemas import (
    CODECS,
    MAX_AHEAD_MS,
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    FeatureEvent,
    FeatureSpec,
    FutureTimeError,
    RecordError,
    RilletError,
    SpecRegistry,
    encode,
    parse_ingest_ms,
)
from rillet.schemas.codec import HEADER_BYTES
from rillet.sources.actions import ActionReader, RawAction
from rillet.sources.avro_schemas import Schema
from rillet.sources.config import SourcesConfig
from rillet.sources.decoding import SchemaOfId, decoder, no_registry
from rillet.sources.features import FeatureReader, RawPage
from rillet.sources.values import iso

Kind = Literal["features", "actions"]
Raw = RawPage | RawAction

_NATIVE = frozenset(CODECS[kind].header for kind in (FeatureEvent, ActionEvent))


class NativeRecord(NamedTuple):
    """Key and value as a native producer would have written them, and when the record was ingested, -1 unknown.

    :param lacking: what the page lacks that is new to the spec, see :class:`rillet.sources.features.RawPage`.
    """

    key: bytes | None
    value: bytes | None
    ingest_ms: int
    lacking: tuple[str, ...] = ()


class Converted(NamedTuple):
    """A record that was not native.

    :param raw: what it says, before hashing.
    :param event: the same, hashed and binned by the spec.
    :param ingest_ms: when it was ingested, -1 unknown.
    """

    raw: Raw
    event: FeatureEvent | ActionEvent
    ingest_ms: int


class Converter:
    """Converts the records of one topic."""

    def __init__(
        self,
        reader: FeatureReader | ActionReader,
        decode: Callable[[bytes], Mapping[str, Any]],
        *,
        max_ahead_ms: int = MAX_AHEAD_MS,
    ) -> None:
        """:param max_ahead_ms: how far an event time may lie after the ingest time."""
        self._reader: Any = reader
        self._decode = decode
        self._max_ahead_ms = max_ahead_ms

    def native(
        self, key: bytes | None, value: bytes | None, ingest: bytes | None = None, timestamp_ms: int = NO_TIME_MS
    ) -> NativeRecord:
        """The native record; one that is native already stays as it is.

        :param ingest: the record's header ``ingest_ms``. Without one the record's timestamp is its ingest time.
        :param timestamp_ms: of the record, -1 unknown.
        :raises RecordError: the record does not fit; with the path of the field and the value found.
        """
        if is_native(value):
            return NativeRecord(key, value, parse_ingest_ms(ingest))
        done = self.convert(value, ingest, timestamp_ms)
        lacking = done.raw.lacking if isinstance(done.raw, RawPage) else ()
        return NativeRecord(done.event.request_id.encode(), encode(done.event), done.ingest_ms, lacking)

    def convert(self, value: bytes | None, ingest: bytes | None = None, timestamp_ms: int = NO_TIME_MS) -> Converted:
        """The event of a record that is not native, with what the record says by the names of the feature spec.

        :raises RecordError: as :meth:`native`. Whatever else goes wrong with a single record is one, too: a task that
            fails on a record would fail on it again at each restart.
        """
        try:
            return self._convert(value, ingest_time_ms(ingest, timestamp_ms))
        # Also what says that nothing is known of the record, such as a schema registry that does not answer.
        except RilletError:
            raise
        except Exception as error:
            last = extract_tb(error.__traceback__)[-1]
            where = f"{PurePath(last.filename).name}, line {last.lineno}"
            raise RecordError(f"value: cannot be converted ({type(error).__name__}: {error}; {where})") from error

    def _convert(self, value: bytes | None, ingest_ms: int) -> Converted:
        if value is None:
            raise RecordError("value: there is none")
        raw: Raw = self._reader.read(self._decode(value))
        if ingest_ms != NO_TIME_MS and raw.event_time_ms > ingest_ms + self._max_ahead_ms:
            raise FutureTimeError(
                f"{self._reader.time_path}: {iso(raw.event_time_ms)} is more than max_ahead_ms ({self._max_ahead_ms})"
                f" after its ingestion at {iso(ingest_ms)}"
            )
        return Converted(raw, self._reader.event(raw), ingest_ms)


def is_native(value: bytes | None) -> bool:
    """Whether a record is a feature or action event of our own encoding."""
    return value is not None and value[:HEADER_BYTES] in _NATIVE


def ingest_time_ms(ingest: bytes | None, timestamp_ms: int) -> int:
    """Ingest time of a record that is not native: what its header says, else its timestamp; -1 unknown.

    A timestamp is unknown, too, where it is before 1970 or after 2105: a producer may stamp any number.

    :raises RecordError: a header that is no time.
    """
    if ingest is not None:
        return parse_ingest_ms(ingest)
    return timestamp_ms if 0 <= timestamp_ms < MAX_TIME_MS else NO_TIME_MS


def make_converter(
    kind: Kind,
    spec: FeatureSpec,
    sources: SourcesConfig,
    *,
    schema: Schema = None,
    schema_of: SchemaOfId = no_registry,
    max_ahead_ms: int = MAX_AHEAD_MS,
    also_accepts: Iterable[FeatureSpec] = (),
) -> Converter | None:
    """The converter of a topic; None where its records are native.

    :param spec: that events are made by.
    :param schema: of format avro.
    :param schema_of: of format registry.
    :param also_accepts: specs from before or after a change that is under way: what is new to ``spec`` may be missing.
    :raises SourceError: source and specs do not fit each other.
    """
    if getattr(sources, kind).format == "rillet":
        return None
    reader: FeatureReader | ActionReader
    specs = SpecRegistry(spec, also_accepts)
    if kind == "features":
        reader = FeatureReader(specs, sources.features)
    else:
        reader = ActionReader(specs, sources.actions, per_impression=sources.features.per_impression)
    return Converter(reader, decoder(getattr(sources, kind), schema, schema_of), max_ahead_ms=max_ahead_ms)

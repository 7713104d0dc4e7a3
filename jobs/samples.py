"""``rillet check-config --sample FILE`` and ``--from-topic N``: what would be made of real records, without any effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.producers import INGEST_HEADER
from rillet.connectors.raw_topics import connected_converter
from rillet.connectors.samples import Sample, newest_records, read_samples
from rillet.jobs.config import RilletConfig
from rillet.schemas import (
    NO_TIME_MS,
    ActionEvent,
    FeatureEvent,
    RecordError,
    check_event,
    decode,
    decode_event,
    parse_ingest_ms,
)
from rillet.sources import Converter, Kind, is_native
from rillet.sources.converter import ingest_time_ms
from rillet.sources.preview import describe, describe_native
from rillet.sources.values import iso

_KINDS: tuple[Kind, ...] = ("features", "actions")
_ONE = {"features": "page", "actions": "action"}


@dataclass(frozen=True, slots=True)
class _Looked:
    """A record with what is known of it besides."""

    sample: Sample
    on_topic: bool = False
    key: bytes | None = None
    ingest: bytes | None = None
    timestamp_ms: int = NO_TIME_MS


class SampleCheck:
    """Reads records as the joiner would, and says what it makes of them."""

    def __init__(self, config: RilletConfig, say: Callable[[str], None]) -> None:
        """:param say: takes each line."""
        self._config = config
        self._spec = config.load_spec()
        self._say = say
        self.fitting = 0
        self.refused = 0

    def file(self, path: Path, kind: Kind) -> None:
        """The records of a file, as if they were on the topic of this kind.

        :raises RilletError: the file, the schema or the registry cannot be used.
        """
        of = getattr(self._config.sources, kind).format
        self._check(kind, (_Looked(sample) for sample in read_samples(path, of)))

    def topic(self, kind: Kind, count: int) -> None:
        """The newest records of a topic.

        :raises RilletError: the topic cannot be read, or schema or registry cannot be used.
        """
        kafka = self._config.kafka
        topic = getattr(kafka.topics, kind)
        records = newest_records(kafka.connection, topic, count)
        if not records:
            self._say(f"topic {topic}: is empty")
        self._check(
            kind,
            (
                _Looked(
                    Sample(f"topic {topic}, partition {record.partition}, offset {record.offset}", record.value),
                    True,
                    record.key,
                    dict(record.headers).get(INGEST_HEADER),
                    record.timestamp_ms,
                )
                for record in records
            ),
        )

    def _check(self, kind: Kind, records: Iterator[_Looked]) -> None:
        converter = connected_converter(
            kind, self._spec, self._config.sources, max_ahead_ms=self._config.joiner.max_ahead_ms
        )
        for record in records:
            try:
                time_ms, lines = self._read(kind, converter, record)
            except RecordError as error:
                self.refused += 1
                self._say(f"{record.sample.place}: does not fit: {error}")
                continue
            self.fitting += 1
            self._say(f"{record.sample.place}: {lines[0]}")
            for line in lines[1:]:
                self._say(line)
            self._say_if_late(time_ms, record.timestamp_ms)

    def _read(self, kind: Kind, converter: Converter | None, record: _Looked) -> tuple[int, list[str]]:
        """Event time, and what to print.

        :raises RecordError: the record does not fit.
        """
        sample, spec = record.sample, self._spec
        if converter is not None and not is_native(sample.data):
            raw = converter.read(sample.data) if sample.decoded is None else converter.read_decoded(sample.decoded)
            converter.event(raw, ingest_time_ms(record.ingest, record.timestamp_ms))
            return raw.event_time_ms, list(describe(raw, spec))
        if converter is None and (sample.decoded is not None or (sample.data or b"")[:1] in (b"{", b"\0")):
            raise RecordError(
                f"value: is no record of rillet's own; say in [sources.{kind}] what format the topic has, and where in a"
                " record things lie (docs/sources.md)"
            )
        event = decode_event(sample.data, record.key) if record.on_topic else _event(sample.data)
        check_event(spec, event, parse_ingest_ms(record.ingest), self._config.joiner.max_ahead_ms)
        return event.event_time_ms, list(describe_native(event, spec))

    def _say_if_late(self, time_ms: int, timestamp_ms: int) -> None:
        late_ms, lateness_ms = timestamp_ms - time_ms, self._config.flink.lateness_ms
        if timestamp_ms != NO_TIME_MS and late_ms > lateness_ms:
            self._say(
                f"  warning: the event is {late_ms / 1000:,.0f} s older than its record ({iso(timestamp_ms)}), and"
                f" [flink] lateness_ms is {lateness_ms / 1000:g} s: its label windows may close without it"
            )


def _event(data: bytes | None) -> FeatureEvent | ActionEvent:
    """A native event whose key nobody knows."""
    event = decode(data or b"")
    if not isinstance(event, FeatureEvent | ActionEvent):
        raise RecordError(f"a {type(event).__name__} is neither a feature nor an action event")
    return event


def describe_sources(config: RilletConfig) -> list[str]:
    """How each topic is read that is not native.

    :raises SourceError: source and spec do not fit each other, or a schema file cannot be used.
    """
    lines, spec, sources = [], config.load_spec(), config.sources
    for kind in _KINDS:
        if connected_converter(kind, spec, sources) is not None:
            one = "impression" if kind == "features" and sources.features.per_impression else _ONE[kind]
            lines.append(f"{kind}: {getattr(sources, kind).format}, one record per {one}")
    return lines


def run_samples(
    config: RilletConfig, *, sample: Path | None, topic: Kind | None, newest: int | None, say: Callable[[str], None]
) -> int:
    """Checks a file, the newest records of the topics, or both; 1 if a record does not fit, else 0.

    :param topic: what the file holds, and the only topic that is read; both topics by default.
    :raises RilletError: something cannot be read.
    """
    check = SampleCheck(config, say)
    if sample is not None and topic is not None:
        check.file(sample, topic)
    if newest is not None:
        for kind in _KINDS if topic is None else (topic,):
            check.topic(kind, newest)
    say(f"{check.fitting} records fit, {check.refused} would be dead letters")
    return 1 if check.refused else 0

"""What would be made of real records, without any effect: ``rillet check-config --sample FILE`` and ``--from-topic N``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.newest import newest_records
from rillet.connectors.producers import INGEST_HEADER
from rillet.connectors.raw_topics import connected_converter
from rillet.connectors.samples import Sample, read_samples
from rillet.schemas import (
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    SpecRegistry,
    check_event,
    decode,
    decode_event,
    entry_time_ms,
    parse_ingest_ms,
)
from rillet.schemas.text import printable
from rillet.sources import Converter, Kind, SourcesConfig, is_native, make_converter
from rillet.sources.actions import tasks_of_values
from rillet.sources.features import RawPage
from rillet.sources.preview import describe, describe_native
from rillet.sources.values import iso

KINDS: tuple[Kind, ...] = ("features", "actions")
#: characters of a line
_LINE = 4_000
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

    def __init__(
        self,
        spec: FeatureSpec,
        sources: SourcesConfig,
        say: Callable[[str], None],
        *,
        max_ahead_ms: int,
        lateness_ms: int,
        also_accepts: Sequence[FeatureSpec] = (),
    ) -> None:
        """
        :param say: takes each line.
        :param max_ahead_ms: of ``[joiner]``, and ``lateness_ms`` of ``[flink]``.
        :param also_accepts: specs beside ``spec`` whose records are taken.
        """
        self._spec = spec
        self._specs = SpecRegistry(spec, also_accepts)
        self._sources = sources
        self._echo = say
        self._max_ahead_ms = max_ahead_ms
        self._lateness_ms = lateness_ms
        #: records by what becomes of them; of those that fit, actions, and those that nobody asks for by name
        self.fitting = 0
        self.refused = 0
        self.actions = 0
        self.unknown: Counter[str] = Counter()
        #: of the tasks that ask for values: their actions, and those of them that have one
        self.asked: Counter[str] = Counter()
        self.valued: Counter[str] = Counter()
        #: pages without what is new to the spec, by its name
        self.lacking: Counter[str] = Counter()

    def file(self, path: Path, kind: Kind) -> None:
        """The records of a file, as if they were on the topic of this kind.

        :raises RilletError: the file, the schema or the registry cannot be used.
        """
        source = getattr(self._sources, kind)
        samples = list(read_samples(path, source.format))
        schema = samples[0].schema
        if source.format == "registry" and schema is not None:
            # The joiner would read with the schema that the records were written with.
            plain = replace(source, format="avro", registry="", schema=path)
            sources = replace(self._sources, **{kind: plain})
            converter = make_converter(
                kind,
                self._spec,
                sources,
                schema=schema,
                max_ahead_ms=self._max_ahead_ms,
                also_accepts=self._specs.others,
            )
        else:
            converter = self._converter(kind)
        self._check(kind, converter, map(_Looked, samples))

    def topic(self, kafka: KafkaConnection, topic: str, kind: Kind, count: int) -> None:
        """The newest records of a topic.

        :raises RilletError: the topic cannot be read, or schema or registry cannot be used.
        """
        newest, _ = newest_records(kafka, topic, count)
        records = sorted(newest, key=lambda record: record.timestamp_ms)
        if not records:
            self._say(f"topic {topic}: is empty")
        self._check(
            kind,
            self._converter(kind),
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

    def _say(self, line: str) -> None:
        self._echo(printable(line, _LINE))

    def conclude(self) -> bool:
        """Says what became of all records; whether they would make rows, as far as one can tell."""
        unknown = sum(self.unknown.values())
        asked = f", {unknown} {'has' if unknown == 1 else 'have'} an action that nobody asks for" if unknown else ""
        fit = "1 record fits" if self.fitting == 1 else f"{self.fitting} records fit"
        letters = "1 would be a dead letter" if self.refused == 1 else f"{self.refused} would be dead letters"
        self._say(f"{fit}, {letters}{asked}")
        for name, count in self.lacking.items():
            self._say(
                f"{name}: {'1 page lacks it' if count == 1 else f'{count} pages lack it'}, and none of also_accepts has it: taken"
                " as missing, and refused once also_accepts is empty"
            )
        valueless = self._say_valueless()
        if not unknown or unknown < self.actions:
            return not self.refused and not valueless
        named = ", ".join(f"{name} {count}" for name, count in self.unknown.most_common())
        self._say(
            f"no action would make a row: {named}; the feature spec asks for {', '.join(sorted(self._spec.actions))}:"
            " use its names, or translate under [sources.actions.names]"
        )
        return False

    def _say_valueless(self) -> bool:
        """Names the tasks that ask for values and would have negatives alone; whether there are any."""
        source = self._sources.actions
        if source.format == "rillet":
            where = "field value of the action event is null"
        elif source.value:
            where = f"nothing lies at {source.value} ([sources.actions] value)"
        else:
            where = "[sources.actions] value names no path"
        valueless = [
            task for task in tasks_of_values(self._spec) if self.asked[task.name] and not self.valued[task.name]
        ]
        for task in valueless:
            count = self.asked[task.name]
            self._say(
                f"task {task.name} would have negatives alone: it asks for a {task.at_least}, and"
                f" {f'none of its {count} actions has' if count > 1 else 'its one action does not have'} a value: {where}"
            )
        return bool(valueless)

    def _converter(self, kind: Kind) -> Converter | None:
        return connected_converter(
            kind, self._spec, self._sources, max_ahead_ms=self._max_ahead_ms, also_accepts=self._specs.others
        )

    def _check(self, kind: Kind, converter: Converter | None, records: Iterable[_Looked]) -> None:
        for record in records:
            try:
                event, lines = self._read(kind, converter, record)
            except RecordError as error:
                self.refused += 1
                self._say(f"{record.sample.place}: does not fit: {error}")
                continue
            self.fitting += 1
            if isinstance(event, ActionEvent):
                self.actions += 1
                self.unknown[event.action] += event.action not in self._spec.actions
                for task in tasks_of_values(self._spec):
                    self.asked[task.name] += event.action in task.actions
                    self.valued[task.name] += event.action in task.actions and event.value is not None
            self._say(f"{record.sample.place}: {lines[0]}")
            for line in lines[1:]:
                self._say(line)
            self._say_if_late(event.event_time_ms, record.timestamp_ms)

    def _read(
        self, kind: Kind, converter: Converter | None, record: _Looked
    ) -> tuple[FeatureEvent | ActionEvent, list[str]]:
        """The event, and what to print.

        :raises RecordError: the record does not fit.
        """
        sample, spec = record.sample, self._spec
        if converter is not None and not is_native(sample.data):
            done = converter.convert(sample.data, record.ingest, record.timestamp_ms)
            if isinstance(done.raw, RawPage):
                self.lacking.update(done.raw.lacking)
            return done.event, list(describe(done.raw, spec, self._sources.actions))
        if converter is None and (sample.data or b"")[:1] in (b"{", b"\0"):
            raise RecordError(
                f"value: is no record of rillet's own; say in [sources.{kind}] what format the topic has, and where in a"
                " record things lie (docs/sources.md)"
            )
        event = self._specs.event(decode_event(sample.data, record.key) if record.on_topic else _event(sample.data))
        check_event(spec, event, entry_time_ms(parse_ingest_ms(record.ingest), record.timestamp_ms), self._max_ahead_ms)
        return event, list(describe_native(event, spec))

    def _say_if_late(self, time_ms: int, timestamp_ms: int) -> None:
        late_ms, lateness_ms = timestamp_ms - time_ms, self._lateness_ms
        if timestamp_ms >= MAX_TIME_MS:
            self._say(
                f"  warning: the record's timestamp {timestamp_ms} is after 2105 in milliseconds, the unit of Kafka; label"
                " windows close by these timestamps"
            )
        elif timestamp_ms != NO_TIME_MS and late_ms > lateness_ms:
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


def describe_sources(specs: SpecRegistry, sources: SourcesConfig) -> list[str]:
    """How each topic is read that is not native.

    :raises SourceError: source and specs do not fit each other, or a schema file cannot be used.
    """
    lines = []
    for kind in KINDS:
        if connected_converter(kind, specs.current, sources, also_accepts=specs.others) is not None:
            one = "impression" if kind == "features" and sources.features.per_impression else _ONE[kind]
            lines.append(f"{kind}: {getattr(sources, kind).format}, one record per {one}")
    return lines

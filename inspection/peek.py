"""``rillet peek``: records of the loop's topics, decoded, for a person or one JSON object per line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from rillet.connectors.errors import ConnectorError
from rillet.connectors.newest import newest_records, require_broker
from rillet.connectors.raw_topics import connected_converter, native_record
from rillet.connectors.topic_reader import TopicRecord
from rillet.inspection.columns import Json
from rillet.inspection.records import Convert, Kind, RecordReader
from rillet.inspection.text import lines_of
from rillet.inspection.topics import find_records, follow
from rillet.jobs.config import RilletConfig
from rillet.schemas import RecordError, SpecRegistry, decode_dead_letter
from rillet.schemas.text import printable
from rillet.sources import Converter

KINDS: tuple[Kind, ...] = get_args(Kind)
_RAW: tuple[Literal["features", "actions"], ...] = ("features", "actions")
#: where a request leaves traces, in the order in which it does
_TRACES: tuple[Kind, ...] = ("features", "actions", "examples", "dead-letters")


class Peek:
    """Shows records of one configuration's topics."""

    def __init__(
        self,
        config: RilletConfig,
        *,
        rows: int | None,
        full: bool = False,
        as_json: bool,
        show: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        """
        :param rows: rows that are shown of a block of examples or a delta block; None for all.
        :param full: texts and values as long as they are.
        :param show: takes a line of output.
        :param tell: takes what is no record, such as that the broker went away.
        :raises SpecError: the feature spec cannot be read. SourceError: [sources] does not fit it.
        """
        self._kafka, self._topics = config.kafka.connection, config.kafka.topics
        specs = config.load_specs()
        spec = specs.current
        self._reader = RecordReader(
            spec,
            specs.others,
            limit=rows,
            full=full,
            max_ahead_ms=config.joiner.max_ahead_ms,
            sources=converts_of(config, specs),
        )
        self._as_json = as_json
        self._show, self._tell = show, tell

    def newest(self, kind: Kind, count: int, *, then_follow: bool = False) -> None:
        """The newest ``count`` records of a topic, oldest first, and with ``then_follow`` those that come, for ever.

        :raises BrokerUnavailableError: no broker answers; at once. TopicError: there is no such topic.
        """
        require_broker(self._kafka)
        topic = self._topic(kind)
        records, positions = newest_records(self._kafka, topic, count)
        for record in records:
            self._print(self._reader.describe(record, kind))
        if not then_follow:
            if not records and count:
                self._tell(f"topic {topic} holds no records")
            return
        for new in follow(self._kafka, topic, positions, self._tell):
            self._print(self._reader.describe(new, kind))

    def request(self, request_id: str, kinds: tuple[Kind, ...], look_through: int) -> bool:
        """What the topics hold of a request: its page, its actions, its example rows, its dead letters; whether anything.

        :param look_through: newest offsets of each partition that are looked through.
        :raises BrokerUnavailableError: as :meth:`newest`, TopicError likewise.
        """
        require_broker(self._kafka)
        reader = replace(self._reader, request_id=request_id, limit=None)
        found = False
        for kind in kinds:
            records, older = find_records(
                self._kafka,
                self._topic(kind),
                lambda record, kind=kind: (  # type: ignore[misc]
                    # What is converted may hold the id in any form, or make it of several fields.
                    kind in reader.sources or _mentions(record, kind, request_id.encode())
                ),
                look_through=look_through,
            )
            views, unknown = list[Json](), list[Json]()
            for record in records:
                view = reader.describe(record, kind)
                if view["record"] is None and not _mentions(record, kind, request_id.encode()):
                    unknown.append(view)
                elif _is_of(view, request_id):
                    views.append(view)
            for view in views:
                self._print(view)
            if unknown:
                first = unknown[0]
                count = f"{len(unknown):,} records" if len(unknown) > 1 else "1 record"
                self._tell(
                    f"{kind}: {count} cannot be decoded, so that nobody can tell whose they are; the first, at"
                    f" {first['topic']} {first['partition']}:{first['offset']}: {printable(first['problem'])}"
                )
            if not views and older:
                self._tell(
                    f"{kind}: nothing among the newest {look_through:,} offsets of each partition; {older:,} older ones"
                    " were not looked through: --search N looks further back"
                )
            found = found or bool(views)
        return found

    def _topic(self, kind: Kind) -> str:
        name: str = getattr(self._topics, kind.replace("-", "_"))
        return name

    def _print(self, view: Json) -> None:
        if self._as_json:
            self._show(json.dumps(view, allow_nan=False))
            return
        for line in lines_of(view, time.time_ns() // 1_000_000, full=self._reader.full):
            self._show(line)


def converts_of(config: RilletConfig, specs: SpecRegistry) -> dict[Kind, Convert]:
    """For the topics that [sources] gives another format than the native one, what makes native records of them.

    :raises SourceError: source and specs do not fit each other, or a schema file cannot be used.
    """

    def of(converter: Converter) -> Convert:
        def convert(record: TopicRecord) -> TopicRecord:
            try:
                return native_record(record, converter)
            except ConnectorError as error:  # a registry that is away: no reason to show nothing
                raise RecordError(str(error)) from error

        return convert

    ahead_ms = config.joiner.max_ahead_ms
    made = {
        kind: connected_converter(kind, specs.current, config.sources, max_ahead_ms=ahead_ms, also_accepts=specs.others)
        for kind in _RAW
    }
    return {kind: of(converter) for kind, converter in made.items() if converter is not None}


def kinds_of_request(kind: Kind | None) -> tuple[Kind, ...]:
    """The topics that a request is looked for in."""
    return _TRACES if kind is None else (kind,)


def _mentions(record: TopicRecord, kind: Kind, request_id: bytes) -> bool:
    """Whether a record may be of a request; without decoding it, as there are many that are not."""
    if kind != "dead-letters":
        return record.key == request_id or request_id in (record.value or b"")
    try:
        letter = decode_dead_letter(record.value or b"")
    except RecordError:
        return False
    return letter.key == request_id or request_id in (letter.value or b"")


def _is_of(view: Json, request_id: str) -> bool:
    if view["record"] == "example_block":
        return bool(view["rows"])
    # What cannot be decoded and mentions the request, and a dead letter, may be of the request as far as anyone can tell.
    return bool(view.get("request_id", request_id) == request_id)

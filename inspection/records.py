"""A record of a topic as a plain dictionary that becomes one JSON object: decoded, with names from the feature spec.

Whatever a record holds, it has a form here: what cannot be decoded is shown by its beginning, with the reason, and what
would become a dead letter says so under ``problem``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rillet.connectors.topic_reader import TopicRecord
from rillet.inspection.blocks import describe_delta, describe_examples
from rillet.inspection.columns import Json, time_fields
from rillet.inspection.events import describe_event
from rillet.inspection.words import beginning
from rillet.schemas import (
    MAX_AHEAD_MS,
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    decode,
    decode_dead_letter,
)
from rillet.schemas.raw_events import check_event, decode_event, entry_time_ms

#: what a topic holds, as the command line calls it
Kind = Literal["features", "actions", "examples", "deltas", "dead-letters"]
#: makes a record of the native format of one in another; a native one stays as it is. Raises RecordError.
Convert = Callable[[TopicRecord], TopicRecord]


@dataclass(frozen=True, slots=True)
class RecordReader:
    """How records are read.

    :param spec: of the configuration.
    :param also_accepts: those whose records the services take beside it; each record is shown with the names of its own.
    :param limit: rows that are shown of a block of examples or a delta block; None for all.
    :param request_id: only the example rows of this request.
    :param full: values of records that have no form of their own here are shown whole.
    :param max_ahead_ms: as ``[joiner]`` has it.
    :param sources: for the topics that hold another format than the native one.
    """

    spec: FeatureSpec
    also_accepts: tuple[FeatureSpec, ...] = ()
    limit: int | None = None
    request_id: str | None = None
    full: bool = False
    max_ahead_ms: int = MAX_AHEAD_MS
    sources: Mapping[Kind, Convert] = field(default_factory=dict)

    def describe(self, record: TopicRecord, kind: Kind) -> Json:
        """A record of the topic of this kind."""
        head: Json = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": beginning(record.key, full=self.full),
            **time_fields("timestamp", record.timestamp_ms),
        }
        if record.ingest_ms >= 0:
            head |= time_fields("ingest", record.ingest_ms)
        try:
            return head | (_letter(record, self.full) if kind == "dead-letters" else self._content(record, kind))
        except RecordError as error:
            return head | {"record": None, "problem": str(error), "value": beginning(record.value, full=self.full)}

    def _content(self, record: TopicRecord, kind: Kind) -> Json:
        convert = self.sources.get(kind)
        native = record if convert is None else convert(record)
        found = decode(native.value or b"")
        if isinstance(found, ExampleBlock):
            return describe_examples(
                found, self._spec_of(found.spec_hash), limit=self.limit, request_id=self.request_id
            )
        if not isinstance(found, FeatureEvent | ActionEvent):
            return describe_delta(found, self.spec, limit=self.limit)
        spec = self._spec_of(found.spec_hash) if isinstance(found, FeatureEvent) else self.spec
        view = describe_event(found, spec)
        if native.value != record.value:
            view["source"] = beginning(record.value, full=self.full)
        # What the joiner would refuse is shown all the same.
        try:
            entered_ms = entry_time_ms(native.ingest_ms, record.timestamp_ms)
            check_event(spec, decode_event(native.value, native.key), entered_ms, self.max_ahead_ms)
        except RecordError as error:
            view["problem"] = str(error)
        return view

    def _spec_of(self, spec_hash: int) -> FeatureSpec:
        """The spec that a record names; ours where it is none that is known."""
        return next((spec for spec in self.also_accepts if spec.hash == spec_hash), self.spec)


def _letter(record: TopicRecord, full: bool) -> Json:
    letter = decode_dead_letter(record.value or b"")
    return {
        "record": "dead_letter",
        "reason": letter.reason,
        "place": {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "row": letter.row,
        },
        **time_fields("refused", letter.refused_ms),
        **time_fields("record_time", letter.timestamp_ms),
        "record_key": beginning(letter.key, full=full),
        "value": _what(letter.value, full),
        "value_bytes": letter.value_bytes,
        "cut": letter.cut,
    }


def _what(value: bytes | None, full: bool) -> str | None:
    """A refused value in a few words: what it is where it is a record of ours, else how it begins, or all of it."""
    try:
        found = decode(value or b"")
    except RecordError:
        return beginning(value, full=full)
    if isinstance(found, FeatureEvent):
        return f"feature event of request {found.request_id}, {len(found.impression_ids)} impressions"
    if isinstance(found, ActionEvent):
        return f"action {found.action} of request {found.request_id} on impression {found.impression_id}"
    if isinstance(found, ExampleBlock):
        return f"example block of {len(found)} rows"
    return f"{type(found).__name__} of model {found.model}"

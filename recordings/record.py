"""Writes everything that is on the two raw topics now to a recording, which can be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.dead_letters import letter_for
from rillet.connectors.raw_topics import connected_converter, native_record
from rillet.connectors.topic_reader import read_topic
from rillet.recordings.format import DEAD_LETTERS_FILE, RecordingInfo, RecordingWriter
from rillet.recordings.progress import EventProgress
from rillet.schemas import (
    MAX_AHEAD_MS,
    DeadLetter,
    DecodeError,
    FeatureSpec,
    RecordError,
    SpecRegistry,
    check_event,
    decode_dead_letter,
    decode_event,
    encode_dead_letter,
    entry_time_ms,
)
from rillet.sources import Kind, SourcesConfig


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written, and how many records could not be."""

    info: RecordingInfo
    dead_letters: int


def record(
    kafka: KafkaConnection | str,
    out: Path,
    spec: FeatureSpec,
    *,
    features: str = "features",
    actions: str = "actions",
    sources: SourcesConfig | None = None,
    max_ahead_ms: int = MAX_AHEAD_MS,
    start: Mapping[str, Mapping[int, int]] | None = None,
    dataset: str = "recorded",
    also_accepts: Sequence[FeatureSpec] = (),
) -> Recorded:
    """Writes what is on the topics when it is called into the directory ``out``, as native events.

    Records that the joiner could not use go to ``dead_letters.jsonl`` beside the
    recording, one :class:`rillet.schemas.DeadLetter` per line.

    :param sources: formats of the topics; native by default.
    :param also_accepts: feature specs whose events are written as those of ``spec``.
    :param max_ahead_ms: the joiner's setting of that name.
    :param start: first offset by topic and partition; partitions that are not named are read from their beginning.
    :raises RilletError: see :func:`read_topic`, :func:`connected_converter` and :class:`RecordingWriter`.
    """
    dead = 0
    specs = SpecRegistry(spec, also_accepts)
    start = start or {}
    topics: dict[Kind, str] = {"features": features, "actions": actions}
    converters = {
        topic: connected_converter(
            kind, spec, sources or SourcesConfig(), max_ahead_ms=max_ahead_ms, also_accepts=also_accepts
        )
        for kind, topic in topics.items()
    }
    kafka = KafkaConnection.of(kafka)
    with (
        RecordingWriter(out, spec, dataset) as writer,
        writer.side_file(DEAD_LETTERS_FILE).open("wb") as dead_letters,
        EventProgress(f"record to {out}", None) as progress,
    ):
        done = 0
        writer.source = {"bootstrap_servers": kafka.bootstrap_servers, "topics": [features, actions]}
        for topic in (features, actions):
            for item in read_topic(kafka, topic, start=start.get(topic)):
                try:
                    native = native_record(item, converters[topic])
                    event = specs.event(decode_event(native.value, native.key))
                    check_event(spec, event, entry_time_ms(native.ingest_ms, item.timestamp_ms), max_ahead_ms)
                    writer.write(event)
                except RecordError as error:
                    dead += 1
                    letter = letter_for(
                        error,
                        item.topic,
                        item.partition,
                        item.offset,
                        key=item.key,
                        value=item.value,
                        timestamp_ms=item.timestamp_ms,
                        headers=item.headers,
                    )
                    dead_letters.write(encode_dead_letter(letter) + b"\n")
                done += 1
                progress.update(done)
        if not dead:
            writer.side_file(DEAD_LETTERS_FILE).unlink()
    return Recorded(writer.info(), dead)


def read_dead_letters(directory: Path) -> Iterator[DeadLetter]:
    """The records that could not be recorded, as written by :func:`record`; none when all could.

    :raises DecodeError: a line is no letter; with its number.
    """
    path = Path(directory) / DEAD_LETTERS_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decode_dead_letter(line)
            except DecodeError as error:
                raise DecodeError(f"{path}, line {number}: {error}") from error

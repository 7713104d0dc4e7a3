"""Writes everything that is on the two raw topics now to a recording, which can be replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.dead_letters import letter_for
from rillet.connectors.topic_reader import read_topic
from rillet.recordings.format import DEAD_LETTERS_FILE, PARTIAL, Event, RecordingInfo, RecordingWriter
from rillet.recordings.progress import EventProgress
from rillet.schemas import (
    CODECS,
    ActionEvent,
    DeadLetter,
    DecodeError,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    decode_dead_letter,
    encode_dead_letter,
)


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
    start: Mapping[str, Mapping[int, int]] | None = None,
    dataset: str = "recorded",
) -> Recorded:
    """Writes what is on the topics when it is called into the directory ``out``.

    Records that cannot be decoded or do not fit ``spec`` go to ``dead_letters.jsonl`` beside the
    recording, one :class:`rillet.schemas.DeadLetter` per line.

    :param start: first offset by topic and partition; partitions that are not named are read from their beginning.
    :raises RilletError: see :func:`read_topic` and :class:`RecordingWriter`.
    """
    dead = 0
    start = start or {}
    kafka = KafkaConnection.of(kafka)
    letters = Path(out) / DEAD_LETTERS_FILE
    partial = letters.with_name(letters.name + PARTIAL)
    try:
        with (
            RecordingWriter(out, spec, dataset) as writer,
            partial.open("wb") as dead_letters,
            EventProgress(f"record to {out}", None) as progress,
        ):
            done = 0
            writer.source = {"bootstrap_servers": kafka.bootstrap_servers, "topics": [features, actions]}
            kinds: tuple[tuple[type[FeatureEvent] | type[ActionEvent], str], ...] = (
                (FeatureEvent, features),
                (ActionEvent, actions),
            )
            for kind, topic in kinds:
                for item in read_topic(kafka, topic, start=start.get(topic)):
                    try:
                        event: Event = CODECS[kind].decode(item.value or b"")
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
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if dead:
        partial.replace(letters)
    else:
        partial.unlink()
        letters.unlink(missing_ok=True)
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

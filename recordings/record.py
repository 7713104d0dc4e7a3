"""Writes everything that is on the two raw topics now to a recording, which can be replayed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rillet.connectors.topic_reader import TopicRecord, read_topic
from rillet.recordings.format import DEAD_LETTERS_FILE, Event, RecordingInfo, RecordingWriter
from rillet.recordings.progress import EventProgress
from rillet.schemas import CODECS, ActionEvent, FeatureEvent, FeatureSpec, RecordError


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was written, and how many records could not be."""

    info: RecordingInfo
    dead_letters: int


def record(
    bootstrap_servers: str,
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
    recording: topic, partition, offset, reason and the bytes in base64.

    :param start: first offset by topic and partition; partitions that are not named are read from their beginning.
    :raises RilletError: see :func:`read_topic` and :class:`RecordingWriter`.
    """
    dead = 0
    start = start or {}
    with (
        RecordingWriter(out, spec, dataset) as writer,
        (Path(out) / DEAD_LETTERS_FILE).open("w", encoding="utf-8") as dead_letters,
        EventProgress(f"record to {out}", None) as progress,
    ):
        done = 0
        writer.source = {"bootstrap_servers": bootstrap_servers, "topics": [features, actions]}
        kinds: tuple[tuple[type[FeatureEvent] | type[ActionEvent], str], ...] = (
            (FeatureEvent, features),
            (ActionEvent, actions),
        )
        for kind, topic in kinds:
            for item in read_topic(bootstrap_servers, topic, start=start.get(topic)):
                try:
                    event: Event = CODECS[kind].decode(item.value or b"")
                    writer.write(event)
                except RecordError as error:
                    dead += 1
                    dead_letters.write(json.dumps(_dead_letter(item, error)) + "\n")
                done += 1
                progress.update(done)
    if not dead:
        (Path(out) / DEAD_LETTERS_FILE).unlink()
    return Recorded(writer.info(), dead)


def read_dead_letters(directory: Path) -> Iterator[dict[str, object]]:
    """The records that could not be recorded, as written by :func:`record`; none when all could."""
    path = Path(directory) / DEAD_LETTERS_FILE
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _dead_letter(item: TopicRecord, error: RecordError) -> dict[str, object]:
    return {
        "topic": item.topic,
        "partition": item.partition,
        "offset": item.offset,
        "reason": str(error),
        "key": base64.b64encode(item.key or b"").decode(),
        "value": base64.b64encode(item.value or b"").decode(),
    }

"""Recordings: a directory with ``features.avro``, ``actions.avro`` and ``recording.json``.

The two files are ordinary Avro object container files of the event schemas in arrival order, so any
Avro library reads and writes them. ``recording.json`` holds the feature spec and its hash, counts and time span; it
is written last, so a directory that has it is complete. Ingest times are not kept: they belong to one run,
and a replay stamps its own.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import fastavro
from fastavro.schema import to_parsing_canonical_form
from fastavro.write import Writer

from rillet.recordings.errors import RecordingError
from rillet.schemas import CODECS, ActionEvent, DecodeError, FeatureEvent, FeatureSpec, SpecError, dump_spec, parse_spec

FORMAT = "rillet-recording/1"
FEATURES_FILE = "features.avro"
ACTIONS_FILE = "actions.avro"
INFO_FILE = "recording.json"
DEAD_LETTERS_FILE = "dead_letters.jsonl"
TRUTH_FILE = "truth.npy"
_SIDE_FILES = (DEAD_LETTERS_FILE, TRUTH_FILE)
#: ends the names of files that are being written
PARTIAL = ".partial"

Event = FeatureEvent | ActionEvent
#: Bytes per Avro block, before compression.
_BLOCK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """What ``recording.json`` says.

    :param first_event_ms: earliest event time of features and actions, -1 when there are none.
    :param last_event_ms: latest event time, -1 when there are none.
    :param source: where the recording comes from (generator, seed, topics); free form.
    """

    dataset: str
    spec: FeatureSpec
    requests: int
    impressions: int
    actions: int
    first_event_ms: int
    last_event_ms: int
    source: dict[str, Any] = field(default_factory=dict)


class RecordingWriter:
    """Writes a recording event by event; a context manager.

    Leaving the block normally completes the recording. Until then everything lies in ``*.partial`` files: leaving it by an
    exception removes them, and a recording that was there stays as it was.
    """

    def __init__(self, directory: Path, spec: FeatureSpec, dataset: str, *, codec: str = "deflate") -> None:
        """
        :param directory: made if missing; a recording that is there is replaced when this one is complete.
        :param codec: of the Avro containers, ``deflate`` or ``null``.
        :raises RecordingError: the directory cannot be written, or holds something else.
        """
        self.directory = Path(directory)
        self._spec, self._dataset = spec, dataset
        self._requests = self._impressions = self._actions = 0
        self._first_ms, self._last_ms = -1, -1
        #: Written to ``recording.json`` on closing.
        self.source: dict[str, Any] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            known = {FEATURES_FILE, ACTIONS_FILE, INFO_FILE, DEAD_LETTERS_FILE, TRUTH_FILE}
            others = sorted(
                path.name for path in self.directory.iterdir() if path.name.removesuffix(PARTIAL) not in known
            )
            if others and not (self.directory / INFO_FILE).exists():
                raise RecordingError(
                    f"{self.directory}: is no recording but holds {others[0]}; name an empty or new directory"
                )
            self._files = [self.side_file(name).open("wb") for name in (FEATURES_FILE, ACTIONS_FILE)]
        except OSError as error:
            raise RecordingError(f"{self.directory}: cannot be written ({error.strerror})") from error
        # The lowest level of deflate: a third of the size for a tenth of the time of the default level.
        level = 1 if codec == "deflate" else None
        self._feature_codec, self._action_codec = CODECS[FeatureEvent], CODECS[ActionEvent]
        self._feature_writer, self._action_writer = (
            Writer(file, c.schema, codec=codec, sync_interval=_BLOCK_BYTES, compression_level=level)
            for file, c in zip(self._files, (self._feature_codec, self._action_codec), strict=True)
        )

    def write(self, event: Event) -> None:
        """Appends one event to its file.

        :raises RecordError: a feature event that the spec does not describe.
        """
        if isinstance(event, FeatureEvent):
            self._spec.check_feature(event)
            self._feature_writer.write(self._feature_codec.to_avro(event))
            self._requests += 1
            self._impressions += len(event.impression_ids)
        else:
            self._spec.check_action(event)
            self._action_writer.write(self._action_codec.to_avro(event))
            self._actions += 1
        time_ms = event.event_time_ms
        if time_ms > self._last_ms:
            self._last_ms = time_ms
        if time_ms < self._first_ms or self._first_ms < 0:
            self._first_ms = time_ms

    def info(self) -> RecordingInfo:
        """Counts and span of what was written so far."""
        return RecordingInfo(
            self._dataset,
            self._spec,
            self._requests,
            self._impressions,
            self._actions,
            self._first_ms,
            self._last_ms,
            dict(self.source),
        )

    def close(self) -> RecordingInfo:
        """Flushes both files to disk, then makes the directory a recording.

        :raises RecordingError: the files could not be written.
        """
        try:
            for writer, file in zip((self._feature_writer, self._action_writer), self._files, strict=True):
                writer.flush()
                os.fsync(file.fileno())
                file.close()
            info = self.info()
            text = json.dumps(
                {
                    "format": FORMAT,
                    "dataset": info.dataset,
                    "spec": dump_spec(info.spec),
                    # That of the events: a later version may give the same text another one.
                    "spec_hash": f"{info.spec.hash:#x}",
                    "counts": {"requests": info.requests, "impressions": info.impressions, "actions": info.actions},
                    "time_span_ms": [info.first_event_ms, info.last_event_ms],
                    "source": info.source,
                },
                indent=2,
            )
            self.side_file(INFO_FILE).write_text(text + "\n", "utf-8")
            # Between these steps the directory is no recording; before them it is the old one, after them the new one.
            (self.directory / INFO_FILE).unlink(missing_ok=True)
            for name in _SIDE_FILES:
                if self.side_file(name).exists():
                    self.side_file(name).replace(self.directory / name)
                else:
                    (self.directory / name).unlink(missing_ok=True)  # of the recording that is replaced
            for name in (FEATURES_FILE, ACTIONS_FILE, INFO_FILE):
                self.side_file(name).replace(self.directory / name)
        except OSError as error:
            raise RecordingError(f"{self.directory}: cannot be written ({error.strerror})") from error
        return info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            for file in self._files:
                file.close()
            for name in (FEATURES_FILE, ACTIONS_FILE, INFO_FILE, *_SIDE_FILES):
                self.side_file(name).unlink(missing_ok=True)

    def side_file(self, name: str) -> Path:
        """Where to write a file that belongs to the recording; it is there under its name once this is complete.

        :param name: ``DEAD_LETTERS_FILE`` or ``TRUTH_FILE``; the others are written here.
        """
        return self.directory / f"{name}{PARTIAL}"


class Recording:
    """Reads a recording; every iteration streams from disk anew."""

    def __init__(self, directory: Path) -> None:
        """
        :raises RecordingError: no recording there, or one that cannot be read.
        """
        self.directory = Path(directory)
        self.info = _read_info(self.directory)
        for name in (FEATURES_FILE, ACTIONS_FILE):
            if not (self.directory / name).is_file():
                raise RecordingError(f"{self.directory / name}: is missing; the recording is incomplete")

    def features(self) -> Iterator[FeatureEvent]:
        """Feature events in arrival order.

        :raises RecordingError: damaged file, foreign schema, or another count than ``recording.json`` says.
        """
        yield from _read_container(self.directory / FEATURES_FILE, FeatureEvent, self.info.requests)

    def actions(self) -> Iterator[ActionEvent]:
        """Action events in arrival order.

        :raises RecordingError: damaged file, foreign schema, or another count than ``recording.json`` says.
        """
        yield from _read_container(self.directory / ACTIONS_FILE, ActionEvent, self.info.actions)

    def events(self) -> Iterator[Event]:
        """Features and actions interleaved by event time, each file's own order kept.

        At equal times the feature comes first, and an action never comes before the feature event of its
        request: one that is stamped earlier waits for it. Actions whose request has no feature event in
        the recording come last. Memory: one request id per request read.
        """
        seen: set[str] = set()
        waiting: dict[str, list[ActionEvent]] = {}
        events: Iterator[Event] = heapq.merge(
            self.features(), self.actions(), key=lambda event: (event.event_time_ms, isinstance(event, ActionEvent))
        )
        for event in events:
            if isinstance(event, FeatureEvent):
                yield event
                seen.add(event.request_id)
                yield from waiting.pop(event.request_id, ())
            elif event.request_id in seen:
                yield event
            else:
                waiting.setdefault(event.request_id, []).append(event)
        for orphans in waiting.values():
            yield from orphans


def _read_info(directory: Path) -> RecordingInfo:
    path = directory / INFO_FILE
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RecordingError(
            f"{path}: is missing; {directory} is no recording, or one that was not written to its end"
        ) from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordingError(f"{path}: is no JSON ({error})") from error
    if (found := raw.get("format") if isinstance(raw, dict) else None) != FORMAT:
        raise RecordingError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    try:
        counts, span = raw["counts"], raw["time_span_ms"]
        spec, recorded = parse_spec(raw["spec"]), raw.get("spec_hash", "another hash")
        if recorded != f"{spec.hash:#x}":
            raise RecordingError(
                f"{path}: written by another version of rillet: its events carry {recorded} of feature spec {spec.name},"
                f" which has the hash {spec.hash:#x} now, so each of them would be a dead letter;"
                " record or generate it again"
            )
        return RecordingInfo(
            str(raw["dataset"]),
            spec,
            int(counts["requests"]),
            int(counts["impressions"]),
            int(counts["actions"]),
            int(span[0]),
            int(span[1]),
            dict(raw.get("source", {})),
        )
    except SpecError as error:
        raise RecordingError(f"{path}: spec: {error}") from error
    except KeyError as error:
        raise RecordingError(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, IndexError) as error:
        raise RecordingError(f"{path}: malformed ({error})") from error


def _read_container(path: Path, record_type: type, expected: int) -> Iterator[Any]:
    codec = CODECS[record_type]
    count = 0
    try:
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            name = reader.writer_schema.get("name") if isinstance(reader.writer_schema, dict) else reader.writer_schema
            if to_parsing_canonical_form(reader.writer_schema) != to_parsing_canonical_form(codec.schema):
                # Another version of the schema: let Avro resolve it, field by field, against ours.
                file.seek(0)
                reader = fastavro.reader(file, codec.schema)
            datum: Any
            for datum in reader:
                yield codec.from_avro(datum)
                count += 1
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DecodeError as error:
        raise RecordingError(f"{path}: record {count}: {error}") from error
    except fastavro.read.SchemaResolutionError as error:
        raise RecordingError(f"{path}: holds {name}, which is no {record_type.__name__} ({error})") from error
    # Arbitrary bytes make the reader fail in many ways (EOFError, ValueError, zlib.error, IndexError ...).
    except Exception as error:
        raise RecordingError(
            f"{path}: damaged, or no Avro container, after {count} records ({type(error).__name__}: {error})"
        ) from error
    if count != expected:
        raise RecordingError(f"{path}: holds {count} records, {INFO_FILE} says {expected}; the file was cut or changed")

"""``rillet join --recording``: a recording to example files, by the production joiner in this process, without Flink.

The rows are those of a Flink join of the same recording replayed, with all windows closed at its end. Only when they
were ingested is not among them: a recording does not know it. Histories that the recording lacks are filled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from rillet.connectors.example_writer import ExampleWriter
from rillet.jobs.config import RilletConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.recordings.errors import RecordingError
from rillet.recordings.format import Event, Recording
from rillet.recordings.histories import HistoryFiller
from rillet.recordings.progress import EventProgress
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureEvent, RecordError, check_event
from rillet.trainer import ReadBlock

_EVER_MS = 1 << 62
#: rows of so many events go into blocks together; their order does not depend on it
_EVENTS_PER_COMMIT = 1_024
#: requests are kept for the histories of later ones so many label windows long
_KEEP_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class JoinedRecording:
    """What was joined and written."""

    requests: int
    rows: int
    files: int
    #: events that do not fit the spec, and requests that come later than every label window
    refused: int
    #: what happened to the events, as ``docs/join.md`` counts it
    counters: dict[str, int]


def run_join_recording(config: RilletConfig, recording: Path, to: str, requests: int | None) -> None:
    """The command: joins, shows progress, and says what came of it.

    :raises RilletError: see :func:`join_recording`.
    """
    started = time.perf_counter()
    joined = join_recording(Recording(recording), config, to, requests=requests)
    seconds = time.perf_counter() - started
    click.echo(
        f"{to}: {joined.rows:,} rows of {joined.requests:,} requests in {joined.files:,} files,"
        f" {joined.requests / seconds:,.0f} requests/s"
    )
    if joined.refused:
        click.echo(
            f"{joined.refused:,} events were left out: they do not fit the feature spec, or come later than every label window",
            err=True,
        )


def join_recording(
    recording: Recording, config: RilletConfig, to: str, *, requests: int | None = None
) -> JoinedRecording:
    """Joins a recording to a new set of example files, which is there as a whole or not at all.

    :param to: folder or fsspec URL; holds nothing yet, or what a join that was cut off has left.
    :param requests: only the first so many, with all their actions; None for all.
    :raises RecordingError: the recording is damaged, or ``to`` holds rows already.
    :raises SpecError: the recording was made under a spec that differs in more than histories and tasks.
    :raises ExampleFilesError: something else lies at ``to``.
    :raises StoreUnavailableError: the storage cannot be written.
    """
    spec = config.load_spec()
    info = recording.info
    filler = HistoryFiller(info.spec, spec, keep_ms=_KEEP_WINDOWS * max(task.window_ms for task in spec.tasks))
    writer = ExampleWriter(to, spec, f"recording {info.dataset}", group_rows=config.dump.group_rows)
    if writer.open().rows:
        raise RecordingError(f"{to}: holds example files already; name another folder, or remove them")
    rows = refused = 0

    def events() -> Iterator[Event]:
        nonlocal refused
        for event in map(filler.take, _first(recording.events(), requests)):
            try:
                check_event(spec, event, event.event_time_ms, config.joiner.max_ahead_ms)
            except RecordError:
                refused += 1
            else:
                yield event

    with tempfile.TemporaryDirectory() as folder:
        join = SimulatedJoin(
            spec,
            config.joiner,
            lateness_ms=config.flink.lateness_ms,
            commit_ms=_EVER_MS,
            directory=Path(folder) / "joiner",
        )
        total = min(requests or info.requests, info.requests)
        try:
            with EventProgress(f"join to {to}", total) as progress:
                for number, block in enumerate(_blocks(events(), join, progress)):
                    writer.add(ReadBlock(0, number, _without_ingest_times(block)))
                    rows += len(block)
                    if writer.full:
                        writer.write_group()
            manifest = writer.commit()
            return JoinedRecording(total, rows, len(manifest.files), refused + join.refused, join.counters)
        finally:
            join.close()


def _blocks(events: Iterable[Event], join: SimulatedJoin, progress: EventProgress) -> Iterator[ExampleBlock]:
    """The blocks of the join in the order in which they come."""
    requests = 0
    for number, event in enumerate(events, 1):
        join.take(event)
        if isinstance(event, FeatureEvent):
            requests += 1
            progress.update(requests)
        if number % _EVENTS_PER_COMMIT == 0:
            for _, block in join.visible(_EVER_MS):
                yield block
    join.finish()
    for _, block in join.visible(_EVER_MS):
        yield block


def _first(events: Iterator[Event], requests: int | None) -> Iterator[Event]:
    """The events of the first so many requests. Of actions without a request in the recording nothing is known."""
    if requests is None:
        yield from events
        return
    taken: set[str] = set()
    for event in events:
        if event.request_id in taken:
            yield event
        elif isinstance(event, FeatureEvent) and len(taken) < requests:
            taken.add(event.request_id)
            yield event


def _without_ingest_times(block: ExampleBlock) -> ExampleBlock:
    no_time = np.full(len(block), NO_TIME_MS, np.int64)
    return replace(block, feature_ingest_ms=no_time, action_ingest_ms=no_time)

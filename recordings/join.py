"""``rillet join --recording``: a recording to example files, by the production joiner in this process, without Flink.

The rows are those of a Flink join of the same recording replayed, less those of pairs whose label window the recording
does not hold to its end: what is negative there may have become positive later. When rows were ingested is not among
them: a recording does not know it. Histories that the recording lacks are filled.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.parquet import to_block, to_table
from rillet.jobs.config import RilletConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.recordings.errors import RecordingError
from rillet.recordings.format import INFO_FILE, Event, Recording
from rillet.recordings.histories import HistoryFiller
from rillet.recordings.progress import EventProgress
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureEvent, FeatureSpec, RecordError, check_event
from rillet.schemas.arrays import Bools
from rillet.trainer import ReadBlock

_EVER_MS = 1 << 62
#: rows of so many events go into blocks together; their order does not depend on it
_EVENTS_PER_COMMIT = 1_024
#: share of the requests, or of the actions, that may be lost before the join is refused
MAX_LOST = 0.01
#: counters of ``docs/join.md`` that are of actions which should have become labels
_LOST_ACTIONS = ("orphan_actions", "late_actions", "early_actions", "unknown_impressions")


@dataclass(slots=True)
class JoinedRecording:
    """What was joined and written."""

    #: events read, repeated and refused ones among them
    requests: int = 0
    actions: int = 0
    rows: int = 0
    files: int = 0
    #: events that do not fit the spec, and actions for which there was no room to wait
    refused_requests: int = 0
    refused_actions: int = 0
    #: requests that came after their windows had been forgotten (rule 14)
    late_requests: int = 0
    #: rows left out because the recording ends before their label window
    open_at_end: int = 0
    #: actions that found no place in a history that is filled, and requests that had to be forgotten meanwhile
    unknown_to_histories: int = 0
    forgotten_requests: int = 0
    #: what happened to the other events, as ``docs/join.md`` counts it
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> float:
        """Share of the requests or of the actions that should be in the rows and are not; the larger one."""
        actions = self.refused_actions + sum(self.counters[name] for name in _LOST_ACTIONS)
        return max(
            (self.refused_requests + self.late_requests) / max(self.requests, 1),
            actions / max(self.actions, 1),
        )

    def lines(self) -> list[str]:
        """What became of all events, to be shown."""
        own = {
            "refused requests": self.refused_requests,
            "refused actions": self.refused_actions,
            "late requests": self.late_requests,
            "rows open at end": self.open_at_end,
            "actions unknown to histories": self.unknown_to_histories,
            "requests forgotten by histories": self.forgotten_requests,
        }
        counted = {name.replace("_", " "): count for name, count in self.counters.items()}
        return [f"  {name}: {count:,}" for name, count in (counted | own).items()]


def run_join_recording(
    config: RilletConfig,
    recording: Path,
    to: str,
    requests: int | None,
    *,
    max_lost: float = MAX_LOST,
    keep_open: bool = False,
) -> None:
    """The command: joins, shows progress, and says what came of it.

    :raises RilletError: see :func:`join_recording`.
    """
    started = time.perf_counter()
    joined = join_recording(Recording(recording), config, to, requests=requests, max_lost=max_lost, keep_open=keep_open)
    seconds = time.perf_counter() - started
    click.echo(
        f"{to}: {joined.rows:,} rows of {joined.requests:,} requests in {joined.files:,} files,"
        f" {joined.requests / seconds:,.0f} requests/s"
    )
    click.echo("\n".join(joined.lines()))
    if joined.lost:
        click.echo(f"{joined.lost:.2%} of the requests or of the actions are in no row", err=True)


def join_recording(
    recording: Recording,
    config: RilletConfig,
    to: str,
    *,
    requests: int | None = None,
    max_lost: float = MAX_LOST,
    keep_open: bool = False,
) -> JoinedRecording:
    """Joins a recording to a new set of example files, which is there as a whole or not at all.

    :param to: folder or fsspec URL; holds nothing yet, or what a join that was cut off has left.
    :param requests: only the first so many, with all their actions; None for all.
    :param max_lost: share of the requests or of the actions that may be refused, late, early or orphans.
    :param keep_open: keep the rows of label windows that the recording does not hold to their end.
    :raises RecordingError: the recording is damaged, ``to`` holds rows already, or more than ``max_lost`` was lost.
    :raises SpecError: the recording was made under a spec that differs in more than histories and tasks.
    :raises ExampleFilesError: something else lies at ``to``.
    :raises StoreUnavailableError: the storage cannot be written.
    """
    spec = config.load_spec()
    info = recording.info
    filler = HistoryFiller(info.spec, spec)
    writer = ExampleWriter(to, spec, f"recording {info.dataset}", group_rows=config.dump.group_rows)
    if writer.open().rows:
        raise RecordingError(f"{to}: holds example files already; name another folder, or remove them")
    joined = JoinedRecording()

    def events() -> Iterator[Event]:
        for event in _first(recording.events(), requests):
            of_request = isinstance(event, FeatureEvent)
            joined.requests += of_request
            joined.actions += not of_request
            try:
                filled = filler.take(event)
                check_event(spec, filled, filled.event_time_ms, config.joiner.max_ahead_ms)
            except RecordError:
                joined.refused_requests += of_request
                joined.refused_actions += not of_request
            else:
                yield filled

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
                for number, whole in enumerate(_blocks(events(), join, progress)):
                    block = whole if keep_open else _closed_rows(whole, spec, info.last_event_ms)
                    joined.open_at_end += len(whole) - len(block)
                    writer.add(ReadBlock(0, number, _without_ingest_times(block)))
                    joined.rows += len(block)
                    if writer.full:
                        writer.write_group()
            joined.counters, joined.late_requests = join.counters, join.refused
            joined.refused_actions += join.refused_actions
            joined.unknown_to_histories, joined.forgotten_requests = filler.unknown_actions, filler.forgotten_requests
            if requests is None and (joined.requests, joined.actions) != (info.requests, info.actions):
                raise RecordingError(
                    f"{recording.directory}: {joined.requests} requests and {joined.actions} actions were read,"
                    f" {INFO_FILE} says {info.requests} and {info.actions}; nothing was written"
                )
            if joined.lost > max_lost:
                raise RecordingError(
                    f"{recording.directory}: {joined.lost:.2%} of the requests or of the actions would be in no row, more"
                    f" than --max-lost {max_lost:g}: wrong clocks, another spec, or not in order of arrival? Nothing was"
                    " written. Counted:\n" + "\n".join(joined.lines())
                )
            joined.files = len(writer.commit().files)
            return joined
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


def _closed_rows(block: ExampleBlock, spec: FeatureSpec, last_event_ms: int) -> ExampleBlock:
    """The rows whose label windows, as a backtest counts them, had ended by the recording's last event."""
    waits = np.array([task.window_ms + task.early_ms for task in spec.tasks], np.int64)
    taught = block.mask.reshape(len(block), len(waits))
    closed: Bools = block.feature_time_ms + (taught * waits).max(axis=1) <= last_event_ms
    if closed.all():
        return block
    return to_block(to_table([ReadBlock(0, 0, block)], spec).filter(pa.array(closed)), spec, ingest_times=False)

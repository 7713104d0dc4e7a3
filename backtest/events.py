"""The events of a recording in the order in which a backtest lives through them, and the labels that judge it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.recordings import Event, Recording, RecordingError
from rillet.recordings.histories import HistoryFiller
from rillet.schemas import FeatureEvent, FeatureSpec, RecordError

#: share of the events whose clocks may be far ahead, at most
_WRONG_CLOCKS = 0.03


def load_events(recording: Recording, requests: int | None = None) -> list[Event]:
    """The first requests of a recording with their actions, in order of event time, checked by the recording's spec.

    Files may be in any order. At equal times requests come before actions. An action that is stamped before its
    request, because two clocks differ, comes right after it. Of a request that is recorded twice the first counts.
    Actions on other requests are left out, and impressions that were not exposed.

    :param requests: in the order of the file; None for all.
    :raises RecordingError: the recording is damaged, holds no request, or an event that its spec does not describe.
    """
    # Checked here and nowhere later, since everything goes through the same events.
    spec = recording.info.spec
    first: dict[str, FeatureEvent] = {}
    for event in islice(recording.features(), requests):
        try:
            spec.check_feature(event)
        except RecordError as error:
            raise RecordingError(f"{recording.directory}: request {event.request_id}: {error}") from error
        first.setdefault(event.request_id, event.shown())
    first = {request_id: event for request_id, event in first.items() if len(event.impression_ids)}
    if not first:
        raise RecordingError(f"{recording.directory}: holds no requests; there is nothing to backtest")
    times = {request_id: event.event_time_ms for request_id, event in first.items()}
    events: list[Event] = [*first.values()]
    for action in recording.actions():
        if action.request_id in times:
            try:
                spec.check_action(action)
            except RecordError as error:
                raise RecordingError(f"{recording.directory}: action on {action.request_id}: {error}") from error
            events.append(action)
    events.sort(key=lambda event: max(event.event_time_ms, times[event.request_id]))
    return events


def request_times(events: Iterable[Event]) -> list[int]:
    """Event time of every request, in order."""
    return [event.event_time_ms for event in events if isinstance(event, FeatureEvent)]


def last_event(recording: Recording, events: Sequence[Event], requests: int | None = None) -> int:
    """Event time until which the recording tells what happened: that of its newest event, leaving out wrong clocks.

    One event that is stamped a day ahead would make every label window of the recording look closed. Events after a gap
    that is longer than all label windows are left out, if they are few.

    :param events: what :func:`load_events` gave for the same ``requests``. Where that leaves requests out, the newest event
        of the recording counts, whatever its clock.
    """
    if requests is not None and requests < recording.info.requests:
        return recording.info.last_event_ms
    times = np.sort(np.fromiter((event.event_time_ms for event in events), np.int64, len(events)))
    longest_ms = max(task.window_ms + task.early_ms for task in recording.info.spec.tasks)
    last = len(times) - int(len(times) * _WRONG_CLOCKS) - 1
    gaps = np.flatnonzero(np.diff(times[last:]) > longest_ms)
    return int(times[last + gaps[0]] if len(gaps) else times[-1])


def judged_from(times: Sequence[int], share: float) -> int:
    """Event time of the request that comes after ``share`` of them."""
    return times[min(int(share * len(times)), len(times) - 1)]


def under_spec(events: Iterable[Event], recorded: FeatureSpec, spec: FeatureSpec) -> list[Event]:
    """The events as if they had been recorded under ``spec``: histories that were not are filled from the actions.

    :param recorded: the spec that they were recorded under.
    :raises SpecError: the specs differ in a slot that is no history.
    """
    if recorded.hash == spec.hash:
        return list(events)
    filler = HistoryFiller(recorded, spec)
    return [filler.take(event) for event in events]


def label_events(events: Iterable[Event], spec: FeatureSpec) -> ExpectedExamples:
    """Labels of all impressions by the audit's plain join, unsampled; requests in the order of ``events``."""
    join = PlainJoin(spec)
    for event in events:
        if isinstance(event, FeatureEvent):
            join.add_feature(event)
        else:
            join.add_action(event)
    return join.result()

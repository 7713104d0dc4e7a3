"""Which requests of a recording are for the batch stage, and which are driven live after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rillet.recordings import Event, Recording
from rillet.schemas import FeatureEvent

#: requests of the batch stage per live one
BATCH_PER_LIVE = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """The first ``batch`` requests of a recording, then the ``live`` ones."""

    batch: int
    live: int
    #: event time between the first and the last live request
    live_span_ms: int

    @classmethod
    def of(cls, recording: Recording, live: int | None = None) -> Plan:
        """The newest that the recording allows.

        :param live: how many requests to drive; None for a fifth of the recording.
        :raises RecordingError: it cannot be read.
        """
        requests = recording.info.requests
        live = min(live or max(1, requests // (1 + BATCH_PER_LIVE)), requests)
        batch = min(BATCH_PER_LIVE * live, requests - live)
        times = [event.event_time_ms for event in islice(recording.features(), batch, batch + live)]
        return cls(batch, live, max(times) - min(times) if times else 0)


def live_events(recording: Recording, plan: Plan) -> Iterator[Event]:
    """The live requests and their actions within the label windows, by event time."""
    taken: set[str] = set()
    window_ms = max(task.window_ms for task in recording.info.spec.tasks)
    skipped = 0
    last_ms = 0
    for event in recording.events():
        if isinstance(event, FeatureEvent):
            if skipped < plan.batch:
                skipped += 1
            elif len(taken) < plan.live:
                taken.add(event.request_id)
                last_ms = max(last_ms, event.event_time_ms)
                yield event
            elif event.event_time_ms > last_ms + window_ms:
                return
        elif event.request_id in taken:
            yield event

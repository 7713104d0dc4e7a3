"""The recorded events: the same impressions and actions in two shapes, as requests of 16 and as requests of one.

A join that keeps a row per impression can read only the second: there an impression has a record and a key of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path

import numpy as np

from rillet.recordings import Recording, RecordingError
from rillet.recordings.format import Event, RecordingWriter
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, Slot
from rillet.schemas.arrays import Int64s
from rillet.schemas.fid import VALUE_BITS
from rillet.schemas.spec import Task

#: impressions of a request, and the share of them that have an action
PAGE, ACTION_RATE = 16, 0.1
#: fids of a row: of its request, and of its own
CONTEXT, ITEM = 4, 16
WINDOW_MS = 120_000
NEGATIVE_RATE = 0.1
#: event time between two requests: an hour of it has 72,000
GAP_MS = 50
START_MS = 1_700_000_000_000
#: of the actions, so many come after the window, and make no positive
TOO_LATE = 0.1
_IN_TIME_MS, _TOO_LATE_MS = (500, 100_000), (125_000, 180_000)
#: requests at the end that are far enough after all others that every window of those closes; so many that each partition
#: of a topic has some
CLOSING_REQUESTS = 64
CLOSING_GAP_MS = 2 * WINDOW_MS

SPEC = FeatureSpec(
    "bench",
    context=tuple(Slot(f"context_{i}", i + 1, "id") for i in range(CONTEXT)),
    item=tuple(Slot(f"item_{i}", CONTEXT + i + 1, "id") for i in range(ITEM)),
    dense=(),
    # positives_first is what the other joins do: a positive with its action, a negative at the close of its window.
    tasks=(Task("click", "click", WINDOW_MS, NEGATIVE_RATE, late="drop", early_ms=0, labels="positives_first"),),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How impressions lie in records.

    :param page: impressions of one request, which is one feature event.
    """

    name: str
    page: int
    title: str


REQUEST = Shape("request", PAGE, f"{PAGE} impressions per request")
IMPRESSION = Shape("impression", 1, "one impression per request")
SHAPES = {shape.name: shape for shape in (REQUEST, IMPRESSION)}


@dataclass(frozen=True, slots=True)
class Load:
    """What a recording gives to join.

    :param records: feature and action events.
    :param positives: rows of label 1 that every join of the rule has to make.
    """

    impressions: int
    records: int
    positives: int


def events(requests: int, shape: Shape, seed: int = 0) -> Iterator[Event]:
    """The events in the order of their times; those of one shape are those of the other, divided otherwise.

    :param requests: how many requests of :data:`PAGE` impressions.
    """
    rng = np.random.default_rng(seed)
    waiting: list[tuple[int, int, ActionEvent]] = []
    numbers = iter(range(1 << 62))
    for number in range(requests + CLOSING_REQUESTS):
        closing = number >= requests
        time_ms = START_MS + number * GAP_MS + (CLOSING_GAP_MS if closing else 0)
        while waiting and waiting[0][0] < time_ms:
            yield heappop(waiting)[2]
        size = 1 if closing else PAGE
        context = _fids(rng, 0, CONTEXT)
        items = [_fids(rng, CONTEXT, ITEM) for _ in range(size)]
        yield from _features(number, time_ms, context, items, shape)
        acted = [0] if closing else np.flatnonzero(rng.random(size) < ACTION_RATE).tolist()
        for index in acted:
            too_late = not closing and rng.random() < TOO_LATE
            after = rng.integers(*(_TOO_LATE_MS if too_late else _IN_TIME_MS))
            # That of a closing request comes at once, so that nothing is left open behind it.
            at_ms = time_ms + (0 if closing else int(after))
            heappush(waiting, (at_ms, next(numbers), _action(number, index, at_ms, shape)))
    while waiting:
        yield heappop(waiting)[2]


def recording_name(requests: int, shape: Shape) -> str:
    """Names a recording by all that it is made from: one that was made from something else is not taken for it."""
    made_from = (
        PAGE,
        ACTION_RATE,
        GAP_MS,
        TOO_LATE,
        _IN_TIME_MS,
        _TOO_LATE_MS,
        CLOSING_REQUESTS,
        CLOSING_GAP_MS,
        SPEC.hash,
    )
    digest = hashlib.sha256(repr(made_from).encode()).hexdigest()[:8]
    return f"joiner-{requests}-{shape.name}-{digest}"


def open_recording(folder: Path, requests: int, shape: Shape) -> Recording:
    """The recording of a shape; made where it is not there yet.

    :raises RecordingError: the folder cannot be written.
    """
    target = folder / recording_name(requests, shape)
    try:
        return Recording(target)
    except RecordingError:
        # Not there, or of another version.
        pass
    # Stored, not packed: it is read as often as it is written.
    with RecordingWriter(target, SPEC, f"bench-{shape.name}", codec="null") as writer:
        shown: dict[str, int] = {}
        positives = 0
        for event in events(requests, shape):
            writer.write(event)
            if isinstance(event, FeatureEvent):
                shown[event.request_id] = event.event_time_ms
            else:
                positives += event.event_time_ms - shown[event.request_id] < WINDOW_MS
        writer.source = {"positives": positives}
    return Recording(target)


def load_of(recording: Recording) -> Load:
    """What a recording of :func:`open_recording` has."""
    info = recording.info
    return Load(info.impressions, info.requests + info.actions, int(info.source["positives"]))


def _fids(rng: np.random.Generator, first_slot: int, slots: int) -> Int64s:
    numbers = np.arange(first_slot + 1, first_slot + slots + 1, dtype=np.int64)
    return (numbers << VALUE_BITS) | rng.integers(1, 1_000_000, slots)


def _features(number: int, time_ms: int, context: Int64s, items: list[Int64s], shape: Shape) -> Iterator[FeatureEvent]:
    for begin in range(0, len(items), shape.page):
        part = items[begin : begin + shape.page]
        ids = np.arange(begin, begin + len(part))
        name = _request_id(number, begin, shape)
        yield FeatureEvent(name, time_ms, SPEC.hash, context, ids, np.concatenate(part))


def _action(number: int, index: int, time_ms: int, shape: Shape) -> ActionEvent:
    return ActionEvent(_request_id(number, index, shape), time_ms, index, "click")


def _request_id(number: int, index: int, shape: Shape) -> str:
    return f"r{number:08d}" if shape.page > 1 else f"r{number:08d}-{index:02d}"

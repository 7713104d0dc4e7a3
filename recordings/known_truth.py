"""What generators of events share: their events in order of event time, and the true probability of every label.

``truth.npy`` beside a generated recording holds the probabilities, float32[impressions, tasks].
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rillet.recordings.errors import RecordingError
from rillet.recordings.format import TRUTH_FILE, Event, RecordingInfo, RecordingWriter
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s

#: A request, what its user does and when, and the true probabilities of its labels, float32[N, T], where they are known.
Generated = tuple[FeatureEvent, list[ActionEvent], Float32s | None]


def in_time_order(requests: Iterable[Generated]) -> Iterator[tuple[Event, Float32s | None]]:
    """Requests and actions as one stream in order of event time; feature events come with their probabilities.

    :param requests: in order of event time, each before its actions.
    """
    waiting: list[tuple[int, int, ActionEvent]] = []  # heap by time, then by order of making
    made = 0
    for event, actions, truth in requests:
        while waiting and waiting[0][0] < event.event_time_ms:
            yield heapq.heappop(waiting)[2], None
        yield event, truth
        for action in actions:
            heapq.heappush(waiting, (action.event_time_ms, made, action))
            made += 1
    while waiting:
        yield heapq.heappop(waiting)[2], None


def write_with_truth(
    out: Path, spec: FeatureSpec, generator: str, seed: int, events: Iterable[tuple[Event, Float32s | None]]
) -> RecordingInfo:
    """Writes a recording with ``truth.npy`` into ``out``.

    :param generator: name of what made the events.
    :raises RecordingError: ``out`` cannot be written.
    """
    truths = [np.empty((0, len(spec.tasks)), np.float32)]
    with RecordingWriter(out, spec, generator) as writer:
        writer.source = {"generator": generator, "seed": seed}
        for event, truth in events:
            writer.write(event)
            if truth is not None:
                truths.append(truth)
        with writer.side_file(TRUTH_FILE).open("wb") as file:
            np.save(file, np.concatenate(truths))
    return writer.info()


def read_truth(directory: Path) -> Float32s:
    """True probabilities float32[impressions, T] in the order of the recording's impressions.

    :raises RecordingError: the recording has none.
    """
    path = Path(directory) / TRUTH_FILE
    try:
        truth: Float32s = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read ({error}); only synthetic recordings have one") from error
    return truth

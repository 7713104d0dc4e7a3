"""Sends a recording to topics: at the pace of its event times, at a multiple of it, or as fast as the broker accepts.

Keys are request ids, timestamps are event times, the ingest header holds the wall clock of this replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.producers import EventProducer
from rillet.connectors.topics import create_topics
from rillet.recordings.errors import RecordingError
from rillet.recordings.format import Event, Recording
from rillet.recordings.progress import EventProgress
from rillet.schemas import FeatureEvent

#: Records in flight to the broker at most; with so many the replay waits for acknowledgements.
_IN_FLIGHT = 20_000
_FLUSH_TIMEOUT_S = 60.0
_WAIT_S = 0.002


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay sent, all of it acknowledged."""

    features: int
    actions: int
    wall_s: float


def parse_speed(text: str) -> float | None:
    """The factor of ``1x``, ``100x`` or ``2.5x``; None for ``max``.

    :raises RecordingError: anything else.
    """
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise RecordingError(f"speed {text!r}: give a factor such as 1x or 100x, or max")
    return speed


def replay(
    recording: Recording,
    kafka: KafkaConnection | str,
    *,
    speed: float | None = None,
    features: str = "features",
    actions: str = "actions",
    partitions: int = 2,
    requests: int | None = None,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replayed:
    """Sends all events in order of event time, features before their actions; returns when all are acknowledged.

    :param speed: multiple of the recorded pace; None for as fast as possible.
    :param partitions: number of partitions of topics that do not exist yet.
    :param requests: how many requests to send, from the first on, with the actions up to there; None for all.
    :raises RecordingError: the recording is damaged.
    :raises DeliveryError: the broker lost or refused a record.
    """
    create_topics(kafka, {features: partitions, actions: partitions})
    # The queues are sized so that they are never full: waiting is done here, where it is bounded.
    records, size = 2 * _IN_FLIGHT, 1 << 30
    feature_log, action_log = (
        EventProducer(kafka, topic, linger_ms=20, max_queue_records=records, max_queue_bytes=size)
        for topic in (features, actions)
    )
    started = now_s()
    first_ms: int | None = None
    counts = {True: 0, False: 0}
    total = recording.info.requests + recording.info.actions if requests is None else None
    try:
        with EventProgress(f"replay {recording.directory}", total) as progress:
            for event in recording.events():
                is_feature = isinstance(event, FeatureEvent)
                if is_feature and counts[True] == requests:
                    break
                if speed is not None:
                    first_ms = event.event_time_ms if first_ms is None else first_ms
                    ahead_s = (event.event_time_ms - first_ms) / 1000 / speed - (now_s() - started)
                    if ahead_s > 0:
                        sleep(ahead_s)
                _send(feature_log if is_feature else action_log, event, sleep)
                counts[is_feature] += 1
                progress.update(counts[True] + counts[False])
        feature_log.flush(_FLUSH_TIMEOUT_S)
        action_log.flush(_FLUSH_TIMEOUT_S)
    finally:
        feature_log.close()
        action_log.close()
    return Replayed(counts[True], counts[False], now_s() - started)


def _send(producer: EventProducer, event: Event, sleep: Callable[[float], None]) -> None:
    while len(producer) >= _IN_FLIGHT:
        sleep(_WAIT_S)
    producer.submit(event)

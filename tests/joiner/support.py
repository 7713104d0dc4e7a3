"""What the joiner's tests share: a spec, events of it, and records as they arrive."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rillet.schemas import (
    ActionEvent,
    DecodeError,
    FeatureEvent,
    FeatureSpec,
    decode,
    encode,
    parse_spec,
)
from rillet.schemas.spec import LabelMode

SPEC = parse_spec("""
[spec]
name = "test"
sampling_seed = 7
[[context]]
name = "user"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "genres"
slot = 18
kind = "token"
max_values = 3
[[dense]]
name = "price"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 10_000
negative_rate = 0.5
labels = "positives_first"
[[tasks]]
name = "like"
action = "like"
window_ms = 60_000
labels = "positives_first"
""")


def with_labels(spec: FeatureSpec, *modes: LabelMode) -> FeatureSpec:
    """The spec with the label mode of each task, or one of all."""
    each = modes if len(modes) > 1 else modes * len(spec.tasks)
    return replace(spec, tasks=tuple(replace(t, labels=mode) for t, mode in zip(spec.tasks, each, strict=True)))


def key_of(data: bytes) -> bytes:
    """The Kafka key that a well-behaved producer gives a record."""
    try:
        record = decode(data)
    except DecodeError:
        return b""
    return record.request_id.encode() if isinstance(record, FeatureEvent | ActionEvent) else b""


def feature(request: int, time_ms: int, impressions: int = 3, rng: np.random.Generator | None = None) -> FeatureEvent:
    """A feature event whose values follow from its request number."""
    rng = rng or np.random.default_rng(request)
    films = rng.integers(1, 1000, impressions)
    genres = [[f"g{k}" for k in range(int(rng.integers(0, 4)))] for _ in range(impressions)]
    context, context_lengths = SPEC.encode_side("context", {"user": [request % 50 + 1]})
    item, item_lengths = SPEC.encode_side("item", {"film": films, "genres": genres})
    return FeatureEvent(
        request_id=f"r{request}",
        event_time_ms=time_ms,
        spec_hash=SPEC.hash,
        context_fids=context,
        context_lengths=context_lengths,
        impression_ids=np.arange(impressions) + 100,
        item_fids=item,
        item_lengths=item_lengths,
        dense=rng.random(impressions).astype(np.float32),
        served_logits=rng.normal(size=impressions * len(SPEC.tasks)).astype(np.float32),
    )


def action(request: int, impression: int, name: str, time_ms: int) -> ActionEvent:
    return ActionEvent(f"r{request}", time_ms, impression + 100, name)


@dataclass(frozen=True)
class Arrival:
    """A record as it arrives; the key is the right one unless another is given."""

    data: bytes
    key: bytes | None = None
    ingest_ms: int = -1

    @classmethod
    def of(cls, event: FeatureEvent | ActionEvent, key: bytes | None = None, ingest_ms: int = -1) -> Arrival:
        data = encode(event)
        return cls(data, key_of(data) if key is None else key, ingest_ms)


LATENESS_MS = 3_000


def stream(
    seed: int, requests: int, spec: FeatureSpec = SPEC
) -> tuple[list[FeatureEvent], list[ActionEvent], list[tuple[int, int, bytes]]]:
    """Features, actions and (bucket, event time, record) of both, each in order of arrival.

    At most LATENESS_MS out of order of event time, some records twice, some pairs with two actions, some
    actions before their impression.
    """
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(10_000, 210_000, requests))
    features = [
        replace(feature(i, int(t), impressions=int(rng.integers(1, 6))), spec_hash=spec.hash)
        for i, t in enumerate(times)
    ]
    actions = []
    for i, event in enumerate(features):
        for index in range(len(event.impression_ids)):
            for name, share, within_ms in (("watch", 0.3, 15_000), ("like", 0.2, 80_000)):
                if rng.random() < share:
                    after = int(rng.integers(0, within_ms)) if rng.random() < 0.9 else -int(rng.integers(1, 10_000))
                    actions.append(action(i, index, name, event.event_time_ms + after))
                    if rng.random() < 0.3:
                        # a second action on the pair that may well overtake the first
                        after += int(rng.integers(-LATENESS_MS, LATENESS_MS))
                        actions.append(action(i, index, name, max(event.event_time_ms + after, 0)))
    events: list[FeatureEvent | ActionEvent] = [*features, *actions]
    events += [events[k] for k in rng.integers(0, len(events), requests // 10)]
    arrival = [event.event_time_ms + int(rng.integers(0, LATENESS_MS)) for event in events]
    arrived = [events[k] for k in np.argsort(arrival, kind="stable")]
    return (
        [event for event in arrived if isinstance(event, FeatureEvent)],
        [event for event in arrived if isinstance(event, ActionEvent)],
        [(int(event.request_id[1:]) % 4, event.event_time_ms, encode(event)) for event in arrived],
    )

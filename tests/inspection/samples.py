"""Records of a small spec, as they lie on topics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rillet.connectors.topic_reader import TopicRecord
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, LabelKind, Record, encode, parse_spec

NOW_MS = 1_700_000_000_000

SPEC = parse_spec(
    """
[spec]
name = "shop"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "seen"
slot = 2
kind = "history"
of = "film"
action = "watch"
by = "user"
max_values = 3
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "shelf"
slot = 17
kind = "token"
[[item]]
name = "price"
slot = 18
kind = "number"
bins = [1.5, 10.0]
[[dense]]
name = "weight"
[[cross]]
name = "user_film"
slot = 40
slots = ["user", "film"]
[[tasks]]
name = "watch"
action = "watch"
window_ms = 60000
[[tasks]]
name = "buy"
action = "buy"
window_ms = 600000
"""
)


def feature_event(request_id: str = "r-1", **changed: Any) -> FeatureEvent:
    """A page of two films, served."""
    context, lengths = SPEC.encode_side("context", {"user": [7], "seen": [[3, 9]]})
    items, _ = SPEC.encode_side("item", {"film": [5, 6], "shelf": ["drama", "comedy"], "price": [2.0, 99.0]})
    event = FeatureEvent(
        request_id=request_id,
        event_time_ms=NOW_MS - 3_000,
        spec_hash=SPEC.hash,
        context_fids=context,
        impression_ids=np.array([50, 60]),
        item_fids=items,
        context_lengths=lengths,
        dense=np.array([0.5, 0.25], np.float32),
        served_logits=np.array([0.0, -2.0, 1.0, -1.0], np.float32),
        model="shop",
        model_version=4,
    )
    return replace(event, **changed)


def action_event(request_id: str = "r-1", **changed: Any) -> ActionEvent:
    """The first film is watched."""
    return replace(ActionEvent(request_id, NOW_MS - 1_000, 50, "watch"), **changed)


def example_block(**changed: Any) -> ExampleBlock:
    """A correction of request r-1 and a provisional negative of r-2, both of the first task."""
    event = feature_event()
    block = ExampleBlock(
        spec_hash=SPEC.hash,
        bucket=3,
        request_ids=["r-1", "r-2"],
        request_index=np.array([0, 1], np.int32),
        impression_ids=np.array([50, 60]),
        context_fids=np.tile(event.context_fids, 2),
        context_lengths=np.array([1, 2] * 2, np.uint16),
        item_fids=event.item_fids,
        item_lengths=np.array([1, 1, 1] * 2, np.uint16),
        dense=np.array([0.5, 0.25], np.float32),
        labels=np.array([1, 0, 0, 0], np.uint8),
        mask=np.array([1, 0, 1, 0], np.uint8),
        sampling_rate=np.array([1.0, 0.5], np.float32),
        label_kind=np.array([LabelKind.CORRECTION, LabelKind.PROVISIONAL], np.uint8),
        feature_time_ms=np.array([NOW_MS - 3_000, NOW_MS - 2_000]),
        action_time_ms=np.array([NOW_MS - 1_000, -1]),
        feature_ingest_ms=np.array([-1, -1]),
        action_ingest_ms=np.array([-1, -1]),
        served_logits=np.array([0.0, -2.0, 1.0, -1.0], np.float32),
    )
    return replace(block, **changed)


def on_topic(value: Record | bytes | None, topic: str = "features", **changed: Any) -> TopicRecord:
    """A record as it was read; the key is the event's request id."""
    key = value.request_id.encode() if isinstance(value, FeatureEvent | ActionEvent) else b"3"
    data = value if isinstance(value, bytes) or value is None else encode(value)
    return replace(TopicRecord(topic, 1, 42, key, data, NOW_MS - 3_000, NOW_MS - 2_990), **changed)

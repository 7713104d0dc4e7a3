"""The feature spec of a shop, as text and parsed, and an event under it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rillet.schemas import FeatureEvent, parse_spec

TEXT = """
[spec]
name = "shop"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "hour"
slot = 2
kind = "number"
bins = [6, 12.5, 18]
[[item]]
name = "tags"
slot = 9
kind = "token"
max_values = 3
[[item]]
name = "shop"
slot = 10
kind = "id"
[[dense]]
name = "price"
[[tasks]]
name = "click"
action = "click"
window_ms = 600_000
negative_rate = 0.25
[[tasks]]
name = "buy"
action = "buy"
window_ms = 86_400_000
late = "correct"
"""
SPEC = parse_spec(TEXT)


def event(**changes: Any) -> FeatureEvent:
    """A page of two items, with these fields changed."""
    context, context_lengths = SPEC.encode_side("context", {"user": [7], "hour": [12.5]})
    item, item_lengths = SPEC.encode_side("item", {"tags": [["a", "b"], []], "shop": [4, 5]})
    made = FeatureEvent(
        request_id="r",
        event_time_ms=1,
        spec_hash=SPEC.hash,
        context_fids=context,
        context_lengths=context_lengths,
        impression_ids=np.array([1, 2]),
        item_fids=item,
        item_lengths=item_lengths,
        dense=np.ones(2, np.float32),
    )
    return replace(made, **changes)

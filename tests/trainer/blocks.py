"""Seeded example blocks for tests: a ragged spec with two tasks and labels that a model can learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, make_fids, parse_spec
from rillet.schemas.example_rows import split_rows

RAGGED = parse_spec(
    """
[spec]
name = "films"
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
name = "hour"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 1000
labels = "positives_first"
negative_rate = 0.5
[[tasks]]
name = "like"
action = "like"
window_ms = 5000
labels = "positives_first"
negative_rate = 0.25
"""
)


def make_block(
    rng: np.random.Generator,
    rows: int,
    spec: FeatureSpec = RAGGED,
    *,
    users: int = 20,
    items: int = 30,
    served: bool = True,
) -> ExampleBlock:
    """A block of random rows; even items are positive more often than odd ones."""
    slots, tasks = len(spec.slots), len(spec.tasks)
    values = rng.integers(0, items, (rows, slots))
    values[:, 0] = rng.integers(0, users, rows)
    columns = [make_fids(slot.slot, values[:, i]) for i, slot in enumerate(spec.slots)]
    lengths = np.stack(
        [
            rng.integers(0, slot.max_values + 1, rows) if slot.max_values > 1 else np.ones(rows, np.int64)
            for slot in spec.slots
        ],
        axis=1,
    )
    fids = np.repeat(np.stack(columns, axis=1).reshape(-1), lengths.reshape(-1))
    task = rng.integers(0, tasks, rows)
    mask = np.eye(tasks, dtype=np.uint8)[task]
    positive = rng.random(rows) < np.where(values[:, len(spec.context)] % 2 == 0, 0.8, 0.1)
    rates = np.array([t.negative_rate for t in spec.tasks], np.float32)
    times = np.sort(rng.integers(1_000_000, 2_000_000, rows))
    return ExampleBlock(
        spec_hash=spec.hash,
        bucket=0,
        impression_ids=np.arange(rows, dtype=np.int64),
        **split_rows(spec, ["r"], np.zeros(rows, np.int32), fids, lengths.astype(np.uint16).reshape(-1)),
        dense=rng.random(rows * len(spec.dense)).astype(np.float32),
        labels=(mask * positive[:, None]).astype(np.uint8).reshape(-1),
        mask=mask.reshape(-1),
        sampling_rate=rates[task],
        label_kind=np.where(positive, 0, 1).astype(np.uint8),
        feature_time_ms=times,
        action_time_ms=np.where(positive, times + 10, -1),
        feature_ingest_ms=times + 1,
        action_ingest_ms=np.where(positive, times + 11, -1),
        served_logits=rng.normal(size=rows * tasks).astype(np.float32) if served else None,
    )


def later(block: ExampleBlock, by_ms: int) -> ExampleBlock:
    """The same rows of requests so much later; so many that quality takes what lies before them for complete."""
    acted = block.action_time_ms != NO_TIME_MS
    return replace(
        block,
        feature_time_ms=block.feature_time_ms + by_ms,
        action_time_ms=np.where(acted, block.action_time_ms + by_ms, NO_TIME_MS),
    )

"""Example blocks as a faultless joiner would write them, made row by row in plain Python."""

from __future__ import annotations

import numpy as np

from rillet.schemas import NO_TIME_MS, ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from tests.simulation.joiner_oracle import kept, pair_rate


def example_blocks(
    spec: FeatureSpec, features: list[FeatureEvent], actions: list[ActionEvent], ingest_ms: int = NO_TIME_MS
) -> list[ExampleBlock]:
    """One block per row that is due when no action is late; of several actions on a pair the first in the list counts."""
    blocks = []
    for feature in features:
        for column, task in enumerate(spec.tasks):
            for position, impression_id in enumerate(feature.impression_ids.tolist()):
                times = [
                    action.event_time_ms
                    for action in actions
                    if (action.request_id, action.impression_id) == (feature.request_id, impression_id)
                    and action.action in task.actions
                    and -task.early_ms <= action.event_time_ms - feature.event_time_ms < task.window_ms
                ]
                immediate = task.labels == "immediate"
                if (immediate or not times) and kept(
                    spec.sampling_seed,
                    task.name,
                    feature.request_id,
                    impression_id,
                    pair_rate(spec, task, feature, position),
                ):
                    kind = LabelKind.PROVISIONAL if immediate else LabelKind.NEGATIVE
                    blocks.append(_row(spec, feature, position, column, NO_TIME_MS, ingest_ms, kind))
                if times:
                    kind = LabelKind.CORRECTION if immediate else LabelKind.POSITIVE
                    blocks.append(_row(spec, feature, position, column, times[0], ingest_ms, kind))
    return blocks


def _row(
    spec: FeatureSpec,
    feature: FeatureEvent,
    position: int,
    column: int,
    action_ms: int,
    ingest_ms: int,
    kind: LabelKind,
) -> ExampleBlock:
    slots, tasks, dense = len(spec.item), len(spec.tasks), len(spec.dense)
    positive = action_ms != NO_TIME_MS
    one_hot = np.eye(tasks, dtype=np.uint8)[column]
    context_lengths = feature.context_lengths
    if context_lengths is None:
        context_lengths = np.ones(len(spec.context), np.uint16)
    all_lengths = feature.item_lengths
    if all_lengths is None:
        all_lengths = np.ones(slots * len(feature.impression_ids), np.uint16)
    item_lengths = all_lengths[position * slots : (position + 1) * slots]
    begin = int(all_lengths[: position * slots].sum())
    logits = feature.served_logits
    return ExampleBlock(
        spec_hash=spec.hash,
        bucket=0,
        request_ids=[feature.request_id],
        request_index=np.zeros(1, np.int32),
        impression_ids=feature.impression_ids[position : position + 1],
        context_fids=feature.context_fids,
        context_lengths=context_lengths if spec.context_ragged else None,
        item_fids=feature.item_fids[begin : begin + int(item_lengths.sum())],
        item_lengths=item_lengths if spec.item_ragged else None,
        dense=feature.dense[position * dense : (position + 1) * dense],
        labels=one_hot * np.uint8(positive),
        mask=one_hot,
        sampling_rate=np.array([pair_rate(spec, spec.tasks[column], feature, position)], np.float32),
        label_kind=np.array([kind], np.uint8),
        feature_time_ms=np.array([feature.event_time_ms]),
        action_time_ms=np.array([action_ms]),
        feature_ingest_ms=np.array([ingest_ms]),
        action_ingest_ms=np.array([ingest_ms if positive else NO_TIME_MS]),
        served_logits=None if logits is None else logits[position * tasks : (position + 1) * tasks],
    )

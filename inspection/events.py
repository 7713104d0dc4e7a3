"""Feature and action events as dictionaries."""

from __future__ import annotations

import math

from rillet.inspection.columns import Json, matrix, probability, time_fields
from rillet.inspection.names import Names, rows_of_fids
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, RecordError


def describe_event(event: FeatureEvent | ActionEvent, spec: FeatureSpec) -> Json:
    """An event by the names of the spec; slots of an event of another spec have numbers for names.

    :raises RecordError: its columns do not divide into its impressions.
    """
    return _feature(event, spec) if isinstance(event, FeatureEvent) else _action(event, spec)


def _feature(event: FeatureEvent, spec: FeatureSpec) -> Json:
    ours = event.spec_hash == spec.hash
    names, count = Names(spec if ours else None), len(event.impression_ids)
    items = rows_of_fids(event.item_fids, event.item_lengths, count, "item fids")
    item_slots = [slot.slot for slot in spec.item] if ours else []
    dense = matrix(event.dense, count, "dense")
    logits = None if event.served_logits is None else matrix(event.served_logits, count, "served_logits")
    if event.exposed is not None and len(event.exposed) != count:
        raise RecordError(f"exposed: {len(event.exposed)} values, expected {count}")
    impressions = []
    for row, impression_id in enumerate(event.impression_ids.tolist()):
        shown: Json = {"impression_id": impression_id, "features": names.features(items[row], item_slots)}
        if event.exposed is not None:
            shown["exposed"] = bool(event.exposed[row])
        if dense.shape[1]:
            shown["dense"] = names.dense(dense[row])
        if logits is not None:
            shown["served"] = names.per_task([probability(logit) for logit in logits[row].tolist()])
        impressions.append(shown)
    return {
        "record": "feature_event",
        "request_id": event.request_id,
        **time_fields("event_time", event.event_time_ms),
        "model": event.model,
        "model_version": event.model_version,
        "spec_hash": f"{event.spec_hash:#x}",
        "context": names.features(event.context_fids, [slot.slot for slot in spec.context] if ours else []),
        "impressions": impressions,
    }


def _action(event: ActionEvent, spec: FeatureSpec) -> Json:
    tasks = [task.name for task in spec.tasks if event.action in task.actions]
    view: Json = {
        "record": "action_event",
        "request_id": event.request_id,
        **time_fields("event_time", event.event_time_ms),
        "impression_id": event.impression_id,
        "action": event.action,
        "tasks": tasks,
    }
    if event.value is not None:
        view["value"] = event.value if math.isfinite(event.value) else str(event.value)
    if event.action_id is not None:
        view["action_id"] = event.action_id
    return view

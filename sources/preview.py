"""What was made of a record, as lines to read: request, time, candidates, values by slot name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, Slot, value_of
from rillet.sources.actions import RawAction, nearest_action, tasks_of_values
from rillet.sources.config import ActionSource
from rillet.sources.converter import Raw
from rillet.sources.paths import Path, shown
from rillet.sources.values import iso

#: candidates of a request that are shown
_CANDIDATES = 5


def describe(raw: Raw, spec: FeatureSpec, source: ActionSource) -> Iterator[str]:
    """The lines of a converted record.

    :param source: of actions.
    """
    if isinstance(raw, RawAction):
        yield (
            f"request {raw.request_id}, {iso(raw.event_time_ms)}, action {raw.action} on impression {shown(raw.impression)}"
            f"{_value(raw, spec, source)}{_unknown(raw.action, spec)}"
        )
        return
    yield f"request {raw.request_id}, {iso(raw.event_time_ms)}, {_candidates(len(raw.impression_ids))}"
    width = max(map(len, [*(slot.name for slot in spec.slots), *spec.dense_names, *raw.scores]))
    for slot in spec.context:
        yield f"  {slot.name:{width}}  {_values(spec, slot, raw.context[slot.name])}"
    for index, impression in enumerate(raw.impressions[:_CANDIDATES]):
        hidden = raw.exposed is not None and raw.exposed[index] is False
        yield f"  candidate {shown(impression)}{', not exposed' if hidden else ''}"
        for slot in spec.item:
            yield f"    {slot.name:{width}}  {_values(spec, slot, raw.items[slot.name][index])}"
        for name in spec.dense_names:
            yield f"    {name:{width}}  {_dense(raw.dense[name][index])} (dense)"
        for task, scores in raw.scores.items():
            score = scores[index]
            yield f"    {task:{width}}  {'-' if score is None else shown(score)} (score)"
    if len(raw.impressions) > _CANDIDATES:
        yield f"  and {_candidates(len(raw.impressions) - _CANDIDATES)} more"


def describe_native(event: FeatureEvent | ActionEvent, spec: FeatureSpec) -> Iterator[str]:
    """The line of a native record; its values are hashed already."""
    head = f"request {event.request_id}, {iso(event.event_time_ms)}"
    if isinstance(event, ActionEvent):
        yield (
            f"{head}, action {event.action} on impression {event.impression_id}{_value(event, spec)}"
            f"{_unknown(event.action, spec)} (native record)"
        )
    else:
        yield f"{head}, {_candidates(len(event.impression_ids))} (native record)"


def _candidates(count: int) -> str:
    return "1 candidate" if count == 1 else f"{count} candidates"


def _value(action: RawAction | ActionEvent, spec: FeatureSpec, source: ActionSource | None = None) -> str:
    """What to say of an action's value: where there is none, only if somebody expects one.

    :param source: that it is of; None of a native record.
    """
    if action.value is not None:
        return f", value {action.value:.15g}"
    path = "" if source is None else source.value
    tasks = [task.name for task in tasks_of_values(spec) if action.action in task.actions]
    if not path and not tasks:
        return ""
    asked = f", which task {' and '.join(tasks)} asks for" if tasks else ""
    near = Path(path).nearest(action.record) if path and isinstance(action, RawAction) else None
    hint = "" if near is None else f"; {shown(near)} is there: is that meant?"
    return f", no value{f' at {path}' if path else ''}{asked}{hint}"


def _unknown(action: str, spec: FeatureSpec) -> str:
    """What to say of an action that nobody asks for."""
    if action in spec.actions:
        return ""
    nearest = nearest_action(action, spec)
    meant = f": did you mean {nearest!r}?" if nearest else f", they ask for {', '.join(sorted(spec.actions))}"
    return f"; no task and no history asks for it{meant}"


def _values(spec: FeatureSpec, slot: Slot, value: Any) -> str:
    if value is None:
        return "missing"
    values = value if slot.ragged else [value]
    of = spec.value_slot(slot)
    return ", ".join(_one(of, one) for one in values) or "-"


def _dense(value: Any) -> str:
    return "missing" if value is None else shown(value)


def _one(slot: Slot, value: Any) -> str:
    if slot.kind != "number":
        return shown(value)
    return f"{shown(value)} (bin {value_of(slot.fids([value]))[0]} of {len(slot.bins) + 1})"

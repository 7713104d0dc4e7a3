"""The feature spec as a TOML file: read with every wrong key named by its path, and written back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rillet.schemas.crosses import Cross
from rillet.schemas.errors import SpecError
from rillet.schemas.fid import MAX_SLOT
from rillet.schemas.negative_rates import LOWEST_RATE, RateByScore, RateBySlot, RateClass
from rillet.schemas.slots import History, Slot, SlotKind
from rillet.schemas.spec import DenseFeature, FeatureSpec, LabelMode, LatePolicy, Task, Transform

_TOP_KEYS = ("spec", "context", "item", "cross", "dense", "tasks")
#: lengths are uint16
_MOST_VALUES = np.iinfo(np.uint16).max


def load_spec(path: Path | str) -> FeatureSpec:
    """Reads and checks a feature spec file.

    :raises SpecError: unreadable, unknown or wrong keys; the message has the file and the key's path.
    """
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise SpecError(f"feature spec {path}: {error.strerror}") from error
    try:
        return parse_spec(text)
    except SpecError as error:
        raise SpecError(f"feature spec {path}: {error}") from error


def parse_spec(text: str) -> FeatureSpec:
    """A spec from TOML text.

    :raises SpecError: with the path of the wrong key.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(str(error)) from error
    for key in raw:
        if key not in _TOP_KEYS:
            raise SpecError(f"{key}: unknown table; known are {', '.join(_TOP_KEYS)}")
    head = raw.get("spec", {})
    for key in head:
        if key not in ("name", "sampling_seed"):
            raise SpecError(f"spec.{key}: unknown key; known are name, sampling_seed")
    context = tuple(_slot(f"context[{i}]", entry) for i, entry in enumerate(raw.get("context", [])))
    item = tuple(_item_slot(f"item[{i}]", entry) for i, entry in enumerate(raw.get("item", [])))
    spec = FeatureSpec(
        name=_typed("spec.name", head.get("name"), str),
        sampling_seed=_typed("spec.sampling_seed", head.get("sampling_seed", 0), int),
        context=context,
        item=item,
        dense=tuple(_dense(f"dense[{i}]", entry) for i, entry in enumerate(raw.get("dense", []))),
        tasks=tuple(_task(f"tasks[{i}]", entry) for i, entry in enumerate(raw.get("tasks", []))),
        crosses=tuple(
            _cross(f"cross[{i}]", entry, {slot.name: slot for slot in context + item})
            for i, entry in enumerate(raw.get("cross", []))
        ),
    )
    if not spec.item:
        raise SpecError("item: at least one item slot is needed")
    if not spec.tasks:
        raise SpecError("tasks: at least one task is needed")
    for index, slot in enumerate(spec.context):
        _check_history(f"context[{index}]", slot, spec)
    for index, task in enumerate(spec.tasks):
        if task.rate_by_slot is not None:
            _check_rate_by_slot(f"tasks[{index}].rate_by_slot", task.rate_by_slot, spec)
    columns: dict[str, Slot | Cross] = {f"context[{index}]": slot for index, slot in enumerate(spec.context)}
    columns |= {f"item[{index}]": slot for index, slot in enumerate(spec.item)}
    columns |= {f"cross[{index}]": cross for index, cross in enumerate(spec.crosses)}
    _refuse_twins("slot number", {f"{path}.slot": column.slot for path, column in columns.items()})
    _refuse_twins("slot name", {f"{path}.name": column.name for path, column in columns.items()})
    _refuse_twins("dense name", {f"dense[{index}].name": name for index, name in enumerate(spec.dense_names)})
    _refuse_twins("task name", {f"tasks[{index}].name": task.name for index, task in enumerate(spec.tasks)})
    return spec


def dump_spec(spec: FeatureSpec) -> str:
    """The spec as TOML text that :func:`parse_spec` reads back to an equal spec."""
    lines = ["[spec]", f"name = {_toml(spec.name)}", f"sampling_seed = {spec.sampling_seed}"]
    for side in ("context", "item"):
        for slot in getattr(spec, side):
            lines += [
                "",
                f"[[{side}]]",
                f"name = {_toml(slot.name)}",
                f"slot = {slot.slot}",
                f'kind = "{slot.kind}"',
            ]
            if slot.ragged:
                lines.append(f"max_values = {slot.max_values}")
            if slot.bins:
                lines.append(f"bins = [{', '.join(repr(b) for b in slot.bins)}]")
            if slot.history is not None:
                lines += [f"{key} = {_toml(value)}" for key, value in asdict(slot.history).items()]
    for cross in spec.crosses:
        lines += ["", "[[cross]]", f"name = {_toml(cross.name)}", f"slot = {cross.slot}"]
        lines += [f"slots = {_toml(cross.slots)}", f"max_values = {cross.max_values}"]
    for dense in spec.dense:
        lines += ["", "[[dense]]", f"name = {_toml(dense.name)}"]
        if dense.transform != "none":
            lines.append(f'transform = "{dense.transform}"')
    for task in spec.tasks:
        lines += ["", "[[tasks]]", f"name = {_toml(task.name)}", f"action = {_toml(task.action)}"]
        lines += [f"window_ms = {task.window_ms}", f"negative_rate = {task.negative_rate!r}", f'late = "{task.late}"']
        lines += [f"early_ms = {task.early_ms}", f'labels = "{task.labels}"']
        if task.rate_by_slot is not None:
            lines += ["", "[tasks.rate_by_slot]", f"slot = {_toml(task.rate_by_slot.slot)}", "classes = ["]
            for one in task.rate_by_slot.classes:
                lines.append(f"  {{ values = {_toml(one.values)}, rate = {one.rate!r} }},")
            lines.append("]")
        if task.rate_by_score is not None:
            lines += ["", "[tasks.rate_by_score]", f"mean_score = {task.rate_by_score.mean_score!r}"]
            lines.append(f"floor = {task.rate_by_score.floor!r}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Text, whole numbers, and sequences of them. JSON's form, but for what TOML takes as it is, or does not."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _refuse_twins(what: str, values: Mapping[str, Any]) -> None:
    """:param values: by the path of their key."""
    first: dict[Any, str] = {}
    for path, value in values.items():
        if value in first:
            raise SpecError(f"{what} {value} stands twice: {first[value]} and {path}")
        first[value] = path


def _typed(path: str, value: Any, kind: type) -> Any:
    accepted: Any = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise SpecError(f"{path}: expected {kind.__name__}, found {'nothing' if value is None else repr(value)}")
    return float(value) if kind is float else value


def _entry(path: str, entry: Any, kinds: Mapping[str, type], optional: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SpecError(f"{path}: expected a table")
    for key in entry:
        if key not in kinds:
            raise SpecError(f"{path}.{key}: unknown key; known are {', '.join(kinds)}")
    return {
        key: _typed(f"{path}.{key}", entry.get(key), kind)
        for key, kind in kinds.items()
        if key in entry or key not in optional
    }


def _slot(path: str, entry: Any) -> Slot:
    head = {"name": str, "slot": int, "kind": str, "max_values": int}
    if isinstance(entry, dict) and entry.get("kind") == "history":
        of_history = {"of": str, "action": str, "by": str, "max_age_ms": int}
        values = _entry(path, entry, head | of_history, optional=("max_age_ms",))
        history = History(**{key: values.pop(key) for key in of_history if key in values})
        slot = Slot(**values, history=history)
    else:
        values = _entry(path, entry, head | {"bins": list}, optional=("max_values", "bins"))
        values["bins"] = tuple(_typed(f"{path}.bins", edge, float) for edge in values.get("bins", []))
        slot = Slot(**values)
    if slot.kind not in get_args(SlotKind):
        raise SpecError(f"{path}.kind: {slot.kind!r} is none of {', '.join(get_args(SlotKind))}")
    _check_number_and_width(path, slot)
    if (slot.kind == "number") != bool(slot.bins):
        raise SpecError(f"{path}.bins: needed for kind number, and only there")
    if any(right <= left for left, right in zip(slot.bins, slot.bins[1:], strict=False)):
        raise SpecError(f"{path}.bins: the edges must increase")
    return slot


def _item_slot(path: str, entry: Any) -> Slot:
    # Before its other keys: none of them would help.
    if isinstance(entry, dict) and entry.get("kind") == "history":
        raise SpecError(f"{path}.kind: a history is of whoever asks, so it is a context slot")
    return _slot(path, entry)


def _check_history(path: str, slot: Slot, spec: FeatureSpec) -> None:
    if slot.history is None:
        return
    items = [item.name for item in spec.item]
    if slot.history.of not in items:
        raise SpecError(f"{path}.of: {slot.history.of!r} is no item slot; these are: {', '.join(items)}")
    owners = [owner.name for owner in spec.context if not owner.ragged]
    if slot.history.by not in owners:
        raise SpecError(
            f"{path}.by: {slot.history.by!r} is no context slot with one value; these are: {', '.join(owners) or 'none'}"
        )
    if slot.history.max_age_ms < 0:
        raise SpecError(f"{path}.max_age_ms: {slot.history.max_age_ms} is negative")


def _cross(path: str, entry: Any, known: Mapping[str, Slot]) -> Cross:
    values = _entry(path, entry, {"name": str, "slot": int, "slots": list, "max_values": int}, optional=("max_values",))
    names = [_typed(f"{path}.slots", name, str) for name in values["slots"]]
    for name in names:
        if name not in known:
            raise SpecError(f"{path}.slots: there is no slot {name!r}; there are {', '.join(known)}")
    if len(names) != 2 or names[0] == names[1]:
        raise SpecError(f"{path}.slots: expected the names of two different slots, found {names}")
    pairs = known[names[0]].max_values * known[names[1]].max_values
    if "max_values" not in values and pairs > _MOST_VALUES:
        raise SpecError(f"{path}.max_values: needed, up to {_MOST_VALUES}, because a row may have {pairs} pairs")
    cross = Cross(values["name"], values["slot"], (names[0], names[1]), values.get("max_values", pairs))
    _check_number_and_width(path, cross)
    return cross


def _check_number_and_width(path: str, column: Slot | Cross) -> None:
    if not 1 <= column.slot <= MAX_SLOT:
        raise SpecError(f"{path}.slot: {column.slot} is not in 1..{MAX_SLOT}")
    if not 1 <= column.max_values <= _MOST_VALUES:
        raise SpecError(f"{path}.max_values: {column.max_values} is not in 1..{_MOST_VALUES}")


def _dense(path: str, entry: Any) -> DenseFeature:
    dense = DenseFeature(**_entry(path, entry, {"name": str, "transform": str}, optional=("transform",)))
    if dense.transform not in get_args(Transform):
        raise SpecError(f"{path}.transform: {dense.transform!r} is none of {', '.join(get_args(Transform))}")
    return dense


def _task(path: str, entry: Any) -> Task:
    required = {"name": str, "action": str, "window_ms": int}
    optional = {"negative_rate": float, "late": str, "early_ms": int, "labels": str}
    tables = {"rate_by_slot": dict, "rate_by_score": dict}
    values = _entry(path, entry, required | optional | tables, [*optional, *tables])
    if "rate_by_slot" in values:
        values["rate_by_slot"] = _rate_by_slot(f"{path}.rate_by_slot", values["rate_by_slot"])
    if "rate_by_score" in values:
        table = _entry(f"{path}.rate_by_score", values["rate_by_score"], {"mean_score": float, "floor": float})
        values["rate_by_score"] = RateByScore(**table)
    task = Task(**values)
    if task.window_ms <= 0:
        raise SpecError(f"{path}.window_ms: {task.window_ms} is not positive")
    if task.early_ms < 0:
        raise SpecError(f"{path}.early_ms: {task.early_ms} is negative")
    _check_rate(f"{path}.negative_rate", task.negative_rate)
    if task.rate_by_score is not None:
        _check_rate_by_score(f"{path}.rate_by_score", task.rate_by_score, task.negative_rate)
    if task.rate_by_slot is not None and task.rate_by_score is not None:
        raise SpecError(f"{path}.rate_by_score: the task has rate_by_slot, too; the rate of a negative has one rule")
    if task.late not in get_args(LatePolicy):
        raise SpecError(f"{path}.late: {task.late!r} is none of {', '.join(get_args(LatePolicy))}")
    if task.labels not in get_args(LabelMode):
        raise SpecError(f"{path}.labels: {task.labels!r} is none of {', '.join(get_args(LabelMode))}")
    return task


def _check_rate(path: str, rate: float) -> None:
    if not LOWEST_RATE <= rate <= 1:
        raise SpecError(f"{path}: {rate} is not in [{LOWEST_RATE}, 1]")


def _check_rate_by_score(path: str, by_score: RateByScore, rate: float) -> None:
    if not 0 < by_score.mean_score <= 1:
        raise SpecError(f"{path}.mean_score: {by_score.mean_score} is not in (0, 1]")
    _check_rate(f"{path}.floor", by_score.floor)
    if by_score.floor > rate:
        raise SpecError(f"{path}.floor: {by_score.floor} is above negative_rate, {rate}, which is to be the mean")


def _rate_by_slot(path: str, entry: dict[str, Any]) -> RateBySlot:
    values = _entry(path, entry, {"slot": str, "classes": list})
    classes = []
    for index, one in enumerate(values["classes"]):
        place = f"{path}.classes[{index}]"
        table = _entry(place, one, {"values": list, "rate": float})
        _check_rate(f"{place}.rate", table["rate"])
        classes.append(RateClass(tuple(table["values"]), table["rate"]))
    if not classes:
        raise SpecError(f"{path}.classes: at least one is needed")
    return RateBySlot(values["slot"], tuple(classes))


def _check_rate_by_slot(path: str, by_slot: RateBySlot, spec: FeatureSpec) -> None:
    slots = {slot.name: slot for slot in spec.slots if not slot.ragged}
    if by_slot.slot not in slots:
        raise SpecError(
            f"{path}.slot: {by_slot.slot!r} is no slot with one value; these are: {', '.join(slots) or 'none'}"
        )
    slot, first = slots[by_slot.slot], dict[int, str]()
    for index, one in enumerate(by_slot.classes):
        place = f"{path}.classes[{index}].values"
        try:
            fids = slot.fids(one.values).tolist()
        except (ValueError, TypeError) as error:
            raise SpecError(f"{place}: {error}") from error
        for value, fid in zip(one.values, fids, strict=True):
            if fid in first:
                raise SpecError(
                    f"{place}: {value!r} stands in {first[fid]}, too, or is in the same bin as a value there"
                )
            first[fid] = place
        if not fids:
            raise SpecError(f"{place}: is empty")

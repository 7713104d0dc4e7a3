"""The feature spec as a TOML file: read with every wrong key named by its path, and written back."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rillet.schemas.crosses import Cross
from rillet.schemas.errors import SpecError
from rillet.schemas.fid import MAX_SLOT
from rillet.schemas.slots import History, Slot, SlotKind
from rillet.schemas.spec import DenseFeature, FeatureSpec, Transform
from rillet.schemas.spec_tasks import check_rate_by_slot, read_task, task_lines
from rillet.schemas.spec_values import checked_table, toml, typed

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
        name=typed("spec.name", head.get("name"), str),
        sampling_seed=typed("spec.sampling_seed", head.get("sampling_seed", 0), int),
        context=context,
        item=item,
        dense=tuple(_dense(f"dense[{i}]", entry) for i, entry in enumerate(raw.get("dense", []))),
        tasks=tuple(read_task(f"tasks[{i}]", entry) for i, entry in enumerate(raw.get("tasks", []))),
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
            check_rate_by_slot(f"tasks[{index}].rate_by_slot", task.rate_by_slot, spec)
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
    lines = ["[spec]", f"name = {toml(spec.name)}", f"sampling_seed = {spec.sampling_seed}"]
    for side in ("context", "item"):
        for slot in getattr(spec, side):
            lines += [
                "",
                f"[[{side}]]",
                f"name = {toml(slot.name)}",
                f"slot = {slot.slot}",
                f'kind = "{slot.kind}"',
            ]
            if slot.ragged:
                lines.append(f"max_values = {slot.max_values}")
            if slot.bins:
                lines.append(f"bins = [{', '.join(repr(b) for b in slot.bins)}]")
            if slot.history is not None:
                lines += [f"{key} = {toml(value)}" for key, value in asdict(slot.history).items()]
    for cross in spec.crosses:
        lines += ["", "[[cross]]", f"name = {toml(cross.name)}", f"slot = {cross.slot}"]
        lines += [f"slots = {toml(cross.slots)}", f"max_values = {cross.max_values}"]
    for dense in spec.dense:
        lines += ["", "[[dense]]", f"name = {toml(dense.name)}"]
        if dense.transform != "none":
            lines.append(f'transform = "{dense.transform}"')
    for task in spec.tasks:
        lines += task_lines(task)
    return "\n".join(lines) + "\n"


def _refuse_twins(what: str, values: Mapping[str, Any]) -> None:
    """:param values: by the path of their key."""
    first: dict[Any, str] = {}
    for path, value in values.items():
        if value in first:
            raise SpecError(f"{what} {value} stands twice: {first[value]} and {path}")
        first[value] = path


def _slot(path: str, entry: Any) -> Slot:
    head = {"name": str, "slot": int, "kind": str, "max_values": int}
    if isinstance(entry, dict) and entry.get("kind") == "history":
        of_history = {"of": str, "action": str, "by": str, "max_age_ms": int}
        values = checked_table(path, entry, head | of_history, optional=("max_age_ms",))
        history = History(**{key: values.pop(key) for key in of_history if key in values})
        slot = Slot(**values, history=history)
    else:
        values = checked_table(path, entry, head | {"bins": list}, optional=("max_values", "bins"))
        values["bins"] = tuple(typed(f"{path}.bins", edge, float) for edge in values.get("bins", []))
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
    values = checked_table(
        path, entry, {"name": str, "slot": int, "slots": list, "max_values": int}, optional=("max_values",)
    )
    names = [typed(f"{path}.slots", name, str) for name in values["slots"]]
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
    dense = DenseFeature(**checked_table(path, entry, {"name": str, "transform": str}, optional=("transform",)))
    if dense.transform not in get_args(Transform):
        raise SpecError(f"{path}.transform: {dense.transform!r} is none of {', '.join(get_args(Transform))}")
    return dense

"""The tasks of the feature spec's file: what makes a label, and which negatives are kept."""

from __future__ import annotations

from math import isfinite
from typing import Any, get_args

from rillet.schemas.errors import SpecError
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast, Measure
from rillet.schemas.negative_rates import LOWEST_RATE, RateByScore, RateBySlot, RateClass
from rillet.schemas.spec import FeatureSpec, LabelMode, LatePolicy, Task
from rillet.schemas.spec_values import checked_table, toml, typed


def read_task(path: str, table: Any) -> Task:
    """A task of its table.

    :raises SpecError: with the path of the wrong key.
    """
    required = {"name": str, "action": str, "actions": list, "window_ms": int}
    optional = {"negative_rate": float, "late": str, "early_ms": int, "labels": str, "negative_after_ms": int}
    tables = {"at_least": dict, "rate_by_slot": dict, "rate_by_score": dict}
    # Of the two one has to be there: without either it is the first that is asked for.
    absent = "action" if isinstance(table, dict) and "actions" in table else "actions"
    values = checked_table(path, table, required | optional | tables, [*optional, *tables, absent])
    if "actions" in values:
        values["action"] = _actions(path, values.get("action"), values.pop("actions"))
    if "at_least" in values:
        values["at_least"] = _at_least(f"{path}.at_least", values["at_least"])
    if "rate_by_slot" in values:
        values["rate_by_slot"] = _rate_by_slot(f"{path}.rate_by_slot", values["rate_by_slot"])
    if "rate_by_score" in values:
        by_score = checked_table(
            f"{path}.rate_by_score", values["rate_by_score"], {"mean_score": float, "floor": float}
        )
        values["rate_by_score"] = RateByScore(**by_score)
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
    if task.negative_after_ms is not None:
        _check_negative_after(f"{path}.negative_after_ms", task, task.negative_after_ms)
    return task


def _check_negative_after(path: str, task: Task, wait_ms: int) -> None:
    if not 0 <= wait_ms < task.window_ms:
        raise SpecError(f"{path}: {wait_ms} is not in 0..{task.window_ms - 1}, below window_ms")
    if task.labels != "positives_first":
        raise SpecError(
            f"{path}: labels is {task.labels!r}, whose rows have their times already; set labels to 'positives_first'"
        )
    if task.late != "correct":
        raise SpecError(
            f"{path}: late is {task.late!r}, which would leave negatives to impressions whose action comes within the"
            " window; set late to 'correct'"
        )


def _actions(path: str, one: str | None, names: list[Any]) -> str | tuple[str, ...]:
    if one is not None:
        raise SpecError(f"{path}.actions: the task has action, too; name all of its actions in one of the two")
    names = [typed(f"{path}.actions", name, str) for name in names]
    if not names:
        raise SpecError(f"{path}.actions: at least one is needed")
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{path}.actions: {name!r} stands twice")
    # Their order means nothing, so the hash does not have it.
    return names[0] if len(names) == 1 else tuple(sorted(names))


def _at_least(path: str, entry: dict[str, Any]) -> AtLeast | None:
    measure: Measure | None = next((one for one in get_args(Measure) if one in entry), None)
    if measure is None or len(entry) != 1:
        raise SpecError(
            f"{path}: expected one of {', '.join(get_args(Measure))}, such as {{ count = 2 }}; found {entry}"
        )
    found = entry[measure]
    number = float(typed(f"{path}.{measure}", found, int if measure == "count" else float))
    if measure == "count" and not 1 <= number <= MOST_GATHERED:
        raise SpecError(f"{path}.count: {found} is not in 1..{MOST_GATHERED}")
    if not isfinite(number):
        raise SpecError(f"{path}.{measure}: {found} is not finite")
    if measure == "sum" and number <= 0:
        raise SpecError(f"{path}.sum: {found} is not above 0, which the sum of no action is")
    return None if measure == "count" and number == 1 else AtLeast(measure, number)


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
    values = checked_table(path, entry, {"slot": str, "classes": list})
    classes = []
    for index, one in enumerate(values["classes"]):
        place = f"{path}.classes[{index}]"
        table = checked_table(place, one, {"values": list, "rate": float})
        _check_rate(f"{place}.rate", table["rate"])
        classes.append(RateClass(tuple(table["values"]), table["rate"]))
    if not classes:
        raise SpecError(f"{path}.classes: at least one is needed")
    return RateBySlot(values["slot"], tuple(classes))


def check_rate_by_slot(path: str, by_slot: RateBySlot, spec: FeatureSpec) -> None:
    """Whether the slot and its values are there, each value once.

    :raises SpecError: with the path of the wrong key.
    """
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


def task_lines(task: Task) -> list[str]:
    """A task as lines of TOML that :func:`read_task` reads back."""
    lines = ["", "[[tasks]]", f"name = {toml(task.name)}"]
    lines.append(f"{'action' if isinstance(task.action, str) else 'actions'} = {toml(task.action)}")
    lines += [f"window_ms = {task.window_ms}", f"negative_rate = {task.negative_rate!r}", f'late = "{task.late}"']
    lines += [f"early_ms = {task.early_ms}", f'labels = "{task.labels}"']
    if task.negative_after_ms is not None:
        lines.append(f"negative_after_ms = {task.negative_after_ms}")
    if task.at_least is not None:
        number = task.at_least.number
        shown = int(number) if task.at_least.measure == "count" else repr(number)
        lines.append(f"at_least = {{ {task.at_least.measure} = {shown} }}")
    if task.rate_by_slot is not None:
        lines += ["", "[tasks.rate_by_slot]", f"slot = {toml(task.rate_by_slot.slot)}", "classes = ["]
        for one in task.rate_by_slot.classes:
            lines.append(f"  {{ values = {toml(one.values)}, rate = {one.rate!r} }},")
        lines.append("]")
    if task.rate_by_score is not None:
        lines += ["", "[tasks.rate_by_score]", f"mean_score = {task.rate_by_score.mean_score!r}"]
        lines.append(f"floor = {task.rate_by_score.floor!r}")
    return lines

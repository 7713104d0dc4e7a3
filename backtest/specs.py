"""Feature specs that a recording can be learned from: its own, or one that differs in what the recording tells.

Windows, rates of negatives and label modes of tasks; crosses, which a model derives; histories, which are filled from the recorded
actions (:mod:`rillet.recordings.histories`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from rillet.jobs.config import read_tables
from rillet.jobs.errors import ConfigError
from rillet.schemas import Cross, DenseFeature, FeatureSpec, SpecError, Task, dump_spec, load_spec, parse_spec

#: what may be varied of a task: it changes what is learned and when, and no recorded column
TASK_KEYS = {
    "window_ms": int,
    "negative_rate": float,
    "labels": str,
    "late": str,
    "early_ms": int,
    "negative_after_ms": int,
}

#: what may be varied of a history: it is filled from the recorded actions
HISTORY_KEYS = {"action": str, "max_values": int, "max_age_ms": int}


def vary_spec(spec: FeatureSpec, changes: Mapping[str, Any]) -> FeatureSpec:
    """A spec with other windows, rates, label modes or transforms, other settings of its histories, or fewer crosses.

    :param changes: by ``tasks.TASK.KEY``, ``context.HISTORY.KEY``, ``dense.NAME.transform``, ``sampling_seed`` or ``crosses``:
        the names of those to keep. A cross that holds all pairs of a history goes on to hold all of them.
    :raises ConfigError: a change of what was recorded, or a value that a spec cannot have.
    """
    tasks = {task.name: task for task in spec.tasks}
    for path, value in changes.items():
        if path == "sampling_seed":
            spec = replace(spec, sampling_seed=_of_type(path, value, int))
            continue
        if path == "crosses":
            spec = replace(spec, crosses=_chosen(spec.crosses, value))
            continue
        head, _, rest = path.partition(".")
        name, _, key = rest.rpartition(".")
        if head == "context" and key in HISTORY_KEYS:
            spec = _vary_history(spec, path, name, key, _of_type(path, value, HISTORY_KEYS[key]))
            continue
        if head == "dense" and key == "transform":
            spec = _vary_transform(spec, path, name, value)
            continue
        if head == "task":
            raise ConfigError(f"spec.{path}: unknown key; did you mean spec.tasks.{rest}?")
        if head != "tasks" or key not in TASK_KEYS:
            raise ConfigError(
                f"spec.{path}: cannot be varied over a recording, which was made under its own spec; what can: "
                f"spec.sampling_seed, spec.crosses, spec.dense.NAME.transform, spec.tasks.TASK. with {', '.join(TASK_KEYS)}, and "
                f"spec.context.HISTORY. with {', '.join(HISTORY_KEYS)}"
            )
        if name not in tasks:
            raise ConfigError(f"spec.{path}: the recording has no task {name}; it has {', '.join(tasks)}")
        tasks[name] = replace(tasks[name], **{key: _of_type(path, value, TASK_KEYS[key])})
    changed = replace(spec, tasks=tuple(tasks.values()))
    try:
        # Written and read again, because reading checks.
        return parse_spec(dump_spec(changed))
    except SpecError as error:
        raise ConfigError(f"spec.{error}") from error


def _vary_history(spec: FeatureSpec, path: str, name: str, key: str, value: Any) -> FeatureSpec:
    known = [slot.name for slot in spec.histories]
    if name not in known:
        raise ConfigError(f"spec.{path}: there is no history {name}; there is {', '.join(known) or 'none'}")
    varied = {
        slot.name: replace(slot, max_values=value)
        if key == "max_values"
        else replace(slot, history=replace(slot.history, **{key: value}))
        for slot in spec.histories
        if slot.history is not None and slot.name == name
    }
    changed = replace(spec, context=tuple(varied.get(slot.name, slot) for slot in spec.context))
    before, after = ({slot.name: slot.max_values for slot in one.slots} for one in (spec, changed))
    crosses = [
        replace(cross, max_values=prod(after[slot] for slot in cross.slots))
        if cross.max_values == prod(before[slot] for slot in cross.slots)
        else cross
        for cross in spec.crosses
    ]
    return replace(changed, crosses=tuple(crosses))


def _vary_transform(spec: FeatureSpec, path: str, name: str, value: Any) -> FeatureSpec:
    if name not in spec.dense_names:
        raise ConfigError(
            f"spec.{path}: there is no dense feature {name}; there is {', '.join(spec.dense_names) or 'none'}"
        )
    varied = (replace(dense, transform=value) if dense.name == name else dense for dense in spec.dense)
    return replace(spec, dense=tuple(varied))


def _logged(spec: FeatureSpec) -> FeatureSpec:
    """What a recording has to hold as it is: neither crosses nor histories nor transforms, nor which labels and negatives there are."""
    return replace(
        spec.without_histories(),
        crosses=(),
        dense=tuple(DenseFeature(name) for name in spec.dense_names),
        tasks=tuple(
            replace(task, rate_by_slot=None, rate_by_score=None, at_least=None, negative_after_ms=None)
            for task in spec.tasks
        ),
    )


def learned_spec(recorded: FeatureSpec, config: Path | Mapping[str, Any] | None) -> FeatureSpec:
    """The feature spec that a configuration names, or the recording's where it names none.

    :raises ConfigError: it differs from the recording's in more than can be varied over a recording.
    :raises SpecError: the spec's file is missing or wrong.
    """
    tables = read_tables(config) if isinstance(config, Path) else config or {}
    if "spec" not in tables:
        return recorded
    if not isinstance(tables["spec"], str | Path):
        raise ConfigError(f"spec: {tables['spec']!r} is no path")
    path = Path(tables["spec"])
    named = load_spec(config.parent / path if isinstance(config, Path) else path)
    changes = {f"tasks.{name}.{key}": value for name, key, value in _task_changes(recorded, named) if value is not None}
    varied = _logged(vary_spec(_logged(recorded), changes | {"sampling_seed": named.sampling_seed}))
    if _logged(named) != varied:
        raise ConfigError(
            f"{path}: feature spec {named.name} ({named.hash:#x}) is not that of the recording, {recorded.name} "
            f"({recorded.hash:#x}), and differs in more than sampling_seed, crosses, histories, transforms and {', '.join(TASK_KEYS)}, "
            f"at_least, rate_by_slot, rate_by_score of tasks; name another --config"
        )
    return named


def spec_changes(recorded: FeatureSpec, learned: FeatureSpec) -> list[str]:
    """What is learned under another value than the recording's, in words."""
    found = [
        f"tasks.{name}.{key}: {value}, recorded {getattr(_task(recorded, name), key)}"
        for name, key, value in _task_changes(recorded, learned)
    ]
    if learned.sampling_seed != recorded.sampling_seed:
        found.append(f"sampling_seed: {learned.sampling_seed}, recorded {recorded.sampling_seed}")
    if learned.crosses != recorded.crosses:
        crosses = ("; ".join(map(str, spec.crosses)) or "none" for spec in (learned, recorded))
        found.append("crosses: {}, recorded {}".format(*crosses))
    transforms = {dense.name: dense.transform for dense in recorded.dense}
    found += [
        f"dense.{dense.name}.transform: {dense.transform}, recorded {transforms[dense.name]}"
        for dense in learned.dense
        if dense.transform != transforms[dense.name]
    ]
    asked = {task.name: task.at_least for task in recorded.tasks}
    found += [
        f"tasks.{task.name}: {task.at_least or 'one action'}, recorded {asked[task.name] or 'one action'}"
        for task in learned.tasks
        if task.at_least != asked[task.name]
    ]
    rules = {task.name: task.rate_by_slot or task.rate_by_score for task in recorded.tasks}
    found += [
        f"tasks.{task.name}: negatives {rule or 'at one rate'}, recorded {rules[task.name] or 'at one rate'}"
        for task in learned.tasks
        if (rule := task.rate_by_slot or task.rate_by_score) != rules[task.name]
    ]
    found += [
        f"context.{slot.name}: a history of {slot.history.of}, filled from the recorded actions"
        for slot in learned.histories
        if slot.history is not None and slot not in recorded.context
    ]
    known = {slot.name for slot in learned.histories}
    found += [f"context.{slot.name}: recorded, left out" for slot in recorded.histories if slot.name not in known]
    return found


def _task(spec: FeatureSpec, name: str) -> Task:
    return next(task for task in spec.tasks if task.name == name)


def _task_changes(recorded: FeatureSpec, other: FeatureSpec) -> list[tuple[str, str, Any]]:
    """Task, key and the other's value of what differs in tasks that both have and can be varied."""
    known = {task.name: task for task in recorded.tasks}
    return [
        (task.name, key, getattr(task, key))
        for task in other.tasks
        if task.name in known
        for key in TASK_KEYS
        if getattr(task, key) != getattr(known[task.name], key)
    ]


def _chosen(crosses: tuple[Cross, ...], names: Any) -> tuple[Cross, ...]:
    known = [cross.name for cross in crosses]
    if not isinstance(names, list) or not all(name in known for name in names):
        raise ConfigError(
            f"spec.crosses: {names!r}: expected a list of crosses of the feature spec, which has"
            f" {', '.join(known) or 'none'}; the spec that --config names may have others than the recording's"
        )
    return tuple(cross for cross in crosses if cross.name in names)


def _of_type(path: str, value: Any, kind: type) -> Any:
    # A rate of 1 is a whole number in TOML; a bool is one in Python.
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float) if kind is float else str):
        raise ConfigError(f"spec.{path}: {value!r} is no {kind.__name__}")
    return kind(value)

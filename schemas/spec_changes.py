"""What differs between two feature specs, what each difference means for who runs, and which ones cannot be lived with.

A change is *compatible* where records of either spec can be read as records of the other
(:mod:`rillet.schemas.conversion`). What is not would give a number on the wire two meanings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

from rillet.schemas.crosses import Cross
from rillet.schemas.negative_rates import RateBySlot
from rillet.schemas.slots import Slot
from rillet.schemas.spec import FeatureSpec, Task


@dataclass(frozen=True, slots=True)
class SpecChange:
    """One difference, and what it means for the joiner, the trainer, and servers with their clients."""

    #: which entry of the spec, such as ``item.film`` or ``tasks.click.window_ms``
    path: str
    what: str
    compatible: bool
    joiner: str = ""
    trainer: str = ""
    serving: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class SpecDiff:
    """All differences from one spec to another."""

    changes: tuple[SpecChange, ...]

    @property
    def incompatible(self) -> tuple[SpecChange, ...]:
        """Those that forbid going on."""
        return tuple(change for change in self.changes if not change.compatible)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"compatible": not self.incompatible, "changes": [asdict(change) for change in self.changes]}


#: values with another rate that are named
_VALUES_TOLD = 5
_OF_TASK = "negative_rate"
#: what decides which labels there are, and when they are complete
_OF_LABELS = ("action", "at_least", "window_ms", "labels", "negative_after_ms")
_AS_BEFORE = "goes on as before"
_OPEN_REQUESTS = "goes on; requests that were joined before keep what they were joined with"


def compare(old: FeatureSpec, new: FeatureSpec) -> SpecDiff:
    """The differences from ``old`` to ``new``, in the order of the file; none where the specs are equal.

    >>> from rillet.schemas import parse_spec
    >>> text = '[spec]\\nname="a"\\n[[item]]\\nname="film"\\nslot=1\\nkind="id"\\n[[tasks]]\\nname="watch"\\naction="watch"\\n'
    >>> old, new = (parse_spec(f"{text}window_ms={ms}") for ms in (1000, 2000))
    >>> [str(change) for change in compare(old, new).changes]
    ['tasks.watch.window_ms: 1000, now 2000']
    """
    return SpecDiff(tuple(_changes(old, new)))


def conflicts(specs: Iterable[FeatureSpec]) -> list[SpecChange]:
    """Why specs cannot be known at the same time: everything that means one thing in one of them and another in another."""
    found = (change for one, other in combinations(specs, 2) for change in _conflicts(one, other))
    return list(dict.fromkeys(found))


def _changes(old: FeatureSpec, new: FeatureSpec) -> Iterator[SpecChange]:
    if old.name != new.name:
        yield SpecChange("spec.name", _was(old.name, new.name), True, _AS_BEFORE, _AS_BEFORE, _AS_BEFORE)
    if old.sampling_seed != new.sampling_seed:
        what = _was(old.sampling_seed, new.sampling_seed)
        yield SpecChange("spec.sampling_seed", what, True, _OPEN_REQUESTS, _AS_BEFORE, _AS_BEFORE)
    yield from _conflicts(old, new)
    # What is refused is told once, and not also as what was removed and added.
    told = set(_numbers_in_conflict(old, new))
    for side in ("context", "item"):
        before, after = ([slot for slot in getattr(spec, side) if slot.slot not in told] for spec in (old, new))
        yield from _slot_changes(side, before, after)
    yield from _cross_changes(*([cross for cross in spec.crosses if cross.slot not in told] for spec in (old, new)))
    yield from _dense_changes(old, new)
    yield from _task_changes(old.tasks, new.tasks)


def _slot_changes(side: str, old: Sequence[Slot], new: Sequence[Slot]) -> Iterator[SpecChange]:
    before, after = ({(slot.name, slot.slot): slot for slot in slots} for slots in (old, new))
    for key, slot in before.items():
        path = f"{side}.{slot.name}"
        if key not in after:
            yield SpecChange(
                path,
                f"removed (slot {slot.slot})",
                True,
                "goes on; its values are left out",
                "goes on without the slot's input; its embeddings expire like any others",
                "clients may go on sending it until they have the new spec",
            )
            continue
        yield from _slot_settings(path, slot, after[key])
    for key, slot in after.items():
        if key not in before:
            yield SpecChange(
                f"{side}.{slot.name}",
                f"added (slot {slot.slot}, {slot.kind})",
                True,
                f"goes on; requests without it have {'no value' if slot.ragged else 'the missing value'} in it",
                "goes on; what reads the slot starts at its initial weights",
                f"requests of the old spec are served with {'no value' if slot.ragged else 'the missing value'} in it",
            )
    kept_before, kept_after = (
        [key for key in one if key in other] for one, other in ((before, after), (after, before))
    )
    if kept_before != kept_after:
        yield _order(side)


def _slot_settings(path: str, old: Slot, new: Slot) -> Iterator[SpecChange]:
    if old.max_values != new.max_values:
        joiner = "goes on; values beyond it are left out" if new.max_values < old.max_values else _AS_BEFORE
        if old.ragged and not new.ragged:
            joiner += ", and where there is none it has the missing value"
        what = _was(old.max_values, new.max_values)
        yield SpecChange(f"{path}.max_values", what, True, joiner, "goes on", "requests are cut to it likewise")
    if old.history is not None and new.history is not None and old.history.max_age_ms != new.history.max_age_ms:
        what = _was(old.history.max_age_ms, new.history.max_age_ms)
        yield SpecChange(f"{path}.max_age_ms", what, True, _AS_BEFORE, _AS_BEFORE, "applied by who keeps the histories")


def _cross_changes(old: Sequence[Cross], new: Sequence[Cross]) -> Iterator[SpecChange]:
    before, after = ({(cross.name, cross.slot): cross for cross in crosses} for crosses in (old, new))
    for key, cross in before.items():
        path = f"cross.{cross.name}"
        if key not in after:
            yield SpecChange(path, "removed", True, _AS_BEFORE, "goes on without its input", _AS_BEFORE)
        elif cross.max_values != after[key].max_values:
            what = _was(cross.max_values, after[key].max_values)
            yield SpecChange(f"{path}.max_values", what, True, _AS_BEFORE, "goes on", _AS_BEFORE)
    for key, cross in after.items():
        if key not in before:
            trainer = "goes on; what reads it starts at its initial weights"
            yield SpecChange(f"cross.{cross.name}", f"added ({cross})", True, _AS_BEFORE, trainer, _AS_BEFORE)
    if [key for key in before if key in after] != [key for key in after if key in before]:
        yield _order("cross")


def _dense_changes(old: FeatureSpec, new: FeatureSpec) -> Iterator[SpecChange]:
    before, after = ({dense.name: dense for dense in spec.dense} for spec in (old, new))
    for name in before:
        path = f"dense.{name}"
        if name not in after:
            serving = "clients may go on sending it until they have the new spec"
            yield SpecChange(path, "removed", True, "goes on; it is left out", "goes on without its input", serving)
        elif before[name].transform != after[name].transform:
            what = _was(before[name].transform, after[name].transform)
            trainer = "goes on; weights and statistics of the feature start anew"
            yield SpecChange(f"{path}.transform", what, True, _AS_BEFORE, trainer, _AS_BEFORE)
    for name in after:
        if name not in before:
            yield SpecChange(
                f"dense.{name}",
                "added",
                True,
                "goes on; requests without it have 0",
                "goes on; weights and statistics of the feature start anew",
                "requests of the old spec are served with 0",
            )
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield _order("dense")


def _task_changes(old: Sequence[Task], new: Sequence[Task]) -> Iterator[SpecChange]:
    before, after = ({task.name: task for task in tasks} for tasks in (old, new))
    for name, task in before.items():
        path = f"tasks.{name}"
        if name not in after:
            yield SpecChange(
                path,
                "removed",
                True,
                "goes on; no more rows of it go out",
                "goes on without its output",
                "deploy first the clients that read its score",
            )
        elif not set(task.actions).isdisjoint(after[name].actions):
            for key in (f.name for f in fields(Task)):
                if (was := getattr(task, key)) != (now := getattr(after[name], key)):
                    same_slot = isinstance(was, RateBySlot) and isinstance(now, RateBySlot) and was.slot == now.slot
                    what = _rates_of_values(was, now) if same_slot else _was(was, now)
                    trainer = "goes on; its quality as served is told anew" if key in _OF_LABELS else "goes on"
                    yield SpecChange(f"{path}.{key}", what, True, _OPEN_REQUESTS, trainer, _AS_BEFORE)
    for name, task in after.items():
        if name not in before:
            yield SpecChange(
                f"tasks.{name}",
                f"added (action {' or '.join(task.actions)})",
                True,
                "goes on; has rows of requests that come from then on",
                "goes on; its output starts at its initial weights",
                "deploy last the clients that read its score",
            )
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield _order("tasks")


def _conflicts(old: FeatureSpec, new: FeatureSpec) -> Iterator[SpecChange]:
    for number, (path, meaning), (path_now, meaning_now) in _numbers_in_conflict(old, new).values():
        was, now = (
            (meaning, meaning_now) if path == path_now else (f"{path} ({meaning})", f"{path_now} ({meaning_now})")
        )
        yield SpecChange(path, f"slot {number} was {was}, now {now}: take a number that was never used", False)
    tasks = {task.name: task for task in new.tasks}
    for task in old.tasks:
        if task.name in tasks and set(task.actions).isdisjoint(tasks[task.name].actions):
            was, now = (" or ".join(one.actions) for one in (task, tasks[task.name]))
            what = f"action was {was}, now {now}: that is another label, give it another name"
            yield SpecChange(f"tasks.{task.name}", what, False)


def _numbers_in_conflict(old: FeatureSpec, new: FeatureSpec) -> dict[int, tuple[int, tuple[str, str], tuple[str, str]]]:
    """Slot numbers that two specs give different meanings, with path and meaning in each."""
    after = {number: (path, meaning) for path, number, meaning in _numbered(new)}
    return {
        number: (number, (path, meaning), after[number])
        for path, number, meaning in _numbered(old)
        if after.get(number, (path, meaning)) != (path, meaning)
    }


def _numbered(spec: FeatureSpec) -> Iterator[tuple[str, int, str]]:
    """Path, slot number, and what values mean, of all that have a number."""
    for side in ("context", "item"):
        for slot in getattr(spec, side):
            meaning = f"kind {slot.kind}"
            if slot.history is not None:
                of = spec.value_slot(slot).kind
                meaning += f", of {slot.history.of} by action {slot.history.action} per {slot.history.by}, {of}"
            if bins := spec.value_slot(slot).bins:
                meaning += f", bins {list(bins)}"
            yield f"{side}.{slot.name}", slot.slot, meaning
    for cross in spec.crosses:
        yield f"cross.{cross.name}", cross.slot, f"pairs of {cross.slots[0]} and {cross.slots[1]}"


def _order(what: str) -> SpecChange:
    carried = "goes on; columns are told apart by name"
    return SpecChange(what, "in another order", True, carried, carried, carried)


def _rates_of_values(old: RateBySlot, new: RateBySlot) -> str:
    """The values whose rate has changed, the first of them by name."""
    before, after = ({value: one.rate for one in by.classes for value in one.values} for by in (old, new))
    moved = [value for value in {**before, **after} if before.get(value) != after.get(value)]
    told = [
        f"{value!r} {_was(before.get(value, _OF_TASK), after.get(value, _OF_TASK))}" for value in moved[:_VALUES_TOLD]
    ]
    more = f"; and {len(moved) - len(told)} more" if len(moved) > len(told) else ""
    return f"by {new.slot}: {'; '.join(told)}{more}" if moved else "classes in another form, rates as before"


def _was(old: object, new: object) -> str:
    return f"{_told(old)}, now {_told(new)}"


def _told(value: object) -> object:
    return "none" if value is None else " or ".join(value) if isinstance(value, tuple) else value

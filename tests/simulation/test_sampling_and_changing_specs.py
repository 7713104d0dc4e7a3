"""Sampled negatives while the feature spec changes: drawn specs, each with rates of its own, taken in any order and across crashes.

Requests are told as plain values, and records are made of them for whichever spec their producer is on, so nothing
here shares code with the conversion of records.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, SliceSchedule
from rillet.schemas import (
    ActionEvent,
    DenseFeature,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    Slot,
    SpecRegistry,
    Task,
    encode,
)
from rillet.schemas.fid import MISSING_VALUE
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass
from rillet.schemas.spec import LabelMode, LatePolicy
from tests.joiner.specs import MemoryStates, SpecEngine
from tests.simulation.joiner_oracle import Row, oracle, rows_of

pytestmark = pytest.mark.simulation

REQUESTS, SPECS, PARTS, LATENESS_MS = 30, 3, 6, 3_000
CONFIG = JoinerConfig(buckets=4, block_rows=16, action_wait_ms=20_000)
USER, SURFACE, TAGS = Slot("user", 1, "id"), Slot("surface", 2, "token"), Slot("tags", 3, "id", 3)
FILM, SHOP, GENRES = Slot("film", 16, "id"), Slot("shop", 17, "id"), Slot("genres", 18, "id", 3)
ACTIONS = {"watch": 15_000, "like": 50_000, "share": 30_000}
#: served logits at the edges of what a rate by score takes
LOGITS = (np.nan, np.inf, -np.inf, 0.0, 40.0, -40.0)


@dataclass(frozen=True)
class Shown:
    """A request as values; those of each impression by name of slot, dense feature or task."""

    number: int
    time_ms: int
    bucket: int
    context: dict[str, list[int | str]]
    items: list[dict[str, list[int]]]
    dense: list[dict[str, float]]
    logits: list[dict[str, float]] | None
    exposed: list[int] | None

    def only(self, index: int) -> Shown:
        """Of one impression alone."""
        logits = self.logits and self.logits[index : index + 1]
        return replace(self, items=[self.items[index]], dense=[self.dense[index]], logits=logits, exposed=None)

    def event(self, spec: FeatureSpec, known: tuple[FeatureSpec, ...] = ()) -> FeatureEvent:
        """The record on a spec; values that one of ``known`` does not have are missing."""
        context = [_fids(slot, self.context, known) for slot in spec.context]
        items = [[_fids(slot, item, known) for slot in spec.item] for item in self.items]
        dense = [[row[name] if _in_all(name, known) else 0.0 for name in spec.dense_names] for row in self.dense]
        names = [task.name for task in spec.tasks]
        tasks_known = [{task.name for task in one.tasks} for one in known]
        logits = self.logits and [
            [row[name] if all(name in of for of in tasks_known) else np.nan for name in names] for row in self.logits
        ]
        return FeatureEvent(
            request_id=f"r{self.number}",
            event_time_ms=self.time_ms,
            spec_hash=spec.hash,
            context_fids=_flat(context, np.int64),
            context_lengths=np.array([len(f) for f in context], np.uint16) if spec.context_ragged else None,
            impression_ids=np.arange(len(self.items)) + 100,
            item_fids=_flat([fids for item in items for fids in item], np.int64),
            item_lengths=np.array([len(f) for i in items for f in i], np.uint16) if spec.item_ragged else None,
            dense=_flat(dense, np.float32),
            served_logits=None if logits is None else _flat(logits, np.float32),
            exposed=None if self.exposed is None else np.array(self.exposed, np.uint8),
        )


def _fids(slot: Slot, values: dict[str, Any], known: tuple[FeatureSpec, ...]) -> list[int]:
    if not all(slot.name in {s.name for s in one.slots} for one in known):
        return [] if slot.ragged else [slot.slot << 48 | MISSING_VALUE]
    fids: list[int] = slot.fids(values[slot.name]).tolist()
    return fids


def _in_all(dense: str, known: tuple[FeatureSpec, ...]) -> bool:
    return all(dense in one.dense_names for one in known)


def _flat(rows: list[Any], dtype: type) -> Any:
    return np.array([value for row in rows for value in row], dtype)


def draw_spec(rng: np.random.Generator) -> FeatureSpec:
    """Slots, dense features and tasks that are there or not, in any order; a rule of rates for each task."""

    def some(always: list[Any], maybe: list[Any]) -> tuple[Any, ...]:
        chosen = [*always, *(one for one in maybe if rng.random() < 0.6)]
        return tuple(chosen[at] for at in rng.permutation(len(chosen)))

    context, item = some([USER], [SURFACE, TAGS]), some([FILM], [SHOP, GENRES])
    single = [slot for slot in (*context, *item) if not slot.ragged]

    # With a task that emits late positives requests are kept for an hour: in half of the specs they are forgotten before.
    late_policies = get_args(LatePolicy) if rng.random() < 0.5 else ("drop",)

    def task(name: str) -> Task:
        labels = get_args(LabelMode)[int(rng.integers(3))]
        late = late_policies[int(rng.integers(len(late_policies)))]
        rate, rule = float(rng.choice([0.3, 0.6, 1.0])), rng.integers(3)
        by_slot = by_score = None
        if rule == 1:
            slot = single[int(rng.integers(len(single)))]
            values = tuple(_value(slot, number) for number in rng.choice(4, 2, replace=False).tolist())
            by_slot = RateBySlot(slot.name, (RateClass(values[:1], 0.1), RateClass(values[1:], 0.9)))
        if rule == 2:
            by_score = RateByScore(float(rng.choice([0.05, 0.4, 1.0])), 0.05)
        window_ms = int(rng.choice([1, 2, 4])) * ACTIONS[name] // 2
        short = late == "correct" and labels == "positives_first" and rng.random() < 0.7
        return Task(
            *(name, name, window_ms, rate, late),
            labels=labels,
            rate_by_slot=by_slot,
            rate_by_score=by_score,
            negative_after_ms=window_ms // 3 if short else None,
            at_least=AtLeast("count", 2) if rng.random() < 0.3 else None,
        )

    tasks = tuple(map(task, some(["watch"], ["like", "share"])))
    dense = tuple(map(DenseFeature, some([], ["price", "age"])))
    return FeatureSpec("drawn", context, item, dense, tasks, sampling_seed=int(rng.integers(2)))


def _value(slot: Slot, number: int) -> int | str:
    return f"v{number}" if slot.kind == "token" else number


def draw_request(rng: np.random.Generator, number: int, time_ms: int) -> Shown:
    n = int(rng.integers(1, 6))

    def values(slot: Slot) -> list[Any]:
        count = int(rng.integers(0, slot.max_values + 1)) if slot.ragged else 1
        return [_value(slot, int(rng.integers(4))) for _ in range(count)]

    def logit() -> float:
        return float(rng.normal() if rng.random() < 0.7 else rng.choice(LOGITS))

    return Shown(
        number,
        time_ms,
        number % CONFIG.buckets,
        {slot.name: values(slot) for slot in (USER, SURFACE, TAGS)},
        [{slot.name: values(slot) for slot in (FILM, SHOP, GENRES)} for _ in range(n)],
        [{"price": float(rng.integers(9)), "age": float(rng.integers(9))} for _ in range(n)],
        None if rng.random() < 0.2 else [{name: logit() for name in ACTIONS} for _ in range(n)],
        None if rng.random() < 0.5 else (rng.random(n) < rng.choice([0.0, 0.7])).astype(int).tolist(),
    )


@dataclass
class Seen:
    """What the joiner has read until a checkpoint, or since."""

    #: specs of the joiner and of the producer of each request
    joined: dict[str, tuple[FeatureSpec, FeatureSpec]] = field(default_factory=dict)
    #: actions by their place among the records; those that a drain gave up are not among them
    actions: dict[int, ActionEvent] = field(default_factory=dict)
    #: those that came when the windows of their pairs were closed
    late: set[ActionEvent] = field(default_factory=set)
    #: requests that a drain has closed
    drained: set[str] = field(default_factory=set)
    newest_ms: int = 0
    watermark_ms: int = 0

    def act(self, at: int, action: ActionEvent, request: Shown) -> None:
        spec, _ = self.joined.get(action.request_id, (None, None))
        if spec is not None and action not in self.actions.values():
            schedule = SliceSchedule(spec, CONFIG)
            for index, task in enumerate(spec.tasks):
                closes_ms = schedule.close_ms(schedule.slice_of(request.time_ms), index)
                drained = action.request_id in self.drained and task.labels != "immediate"
                if action.action in task.actions and (drained or closes_ms <= self.watermark_ms):
                    self.late.add(action)
        self.actions[at] = action

    def drain(self) -> None:
        self.drained |= self.joined.keys()
        # Actions that wait are orphans.
        self.actions = {at: one for at, one in self.actions.items() if one.request_id in self.joined}


class Run:
    """Requests and their actions in order of arrival, and joiners of one spec after the other that read them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.specs = [draw_spec(rng) for _ in range(SPECS)]
        # A pause in which everything is forgotten.
        times = [int(t) + 250_000 * (t > 80_000) for t in np.sort(rng.integers(10_000, 150_000, REQUESTS))]
        self.shown = {f"r{n}": draw_request(rng, n, time_ms) for n, time_ms in enumerate(times)}
        self.actions = [action for shown in self.shown.values() for action in self._actions_on(shown)]
        sent = [*self.shown.values(), *self.actions]
        sent += [sent[at] for at in rng.integers(0, len(sent), REQUESTS // 5)]
        arrival = [_time_ms(one) + int(rng.integers(LATENESS_MS)) for one in sent]
        # Actions whose windows may have closed, and feature events that come again when they may be forgotten.
        for at in rng.integers(0, len(self.actions), len(self.actions) // 5).tolist():
            arrival[REQUESTS + at] += int(rng.integers(20_000, 200_000))
        again = rng.integers(0, REQUESTS, REQUESTS // 5).tolist()
        arrival += [arrival[at] + int(rng.integers(20_000, 400_000)) for at in again]
        sent += [sent[at] for at in again]
        #: with the spec that the producer of each is on
        self.records = [(sent[at], self.specs[int(rng.integers(SPECS))]) for at in np.argsort(arrival, kind="stable")]
        self.current, self.seen = self.specs[0], Seen()
        self.engine = SpecEngine(self.registry(self.current), CONFIG, folder)

    def registry(self, spec: FeatureSpec) -> SpecRegistry:
        return SpecRegistry(spec, self.specs)

    def _actions_on(self, shown: Shown) -> list[ActionEvent]:
        rng, found = self.rng, []
        for index in range(len(shown.items)):
            for name, within_ms in ACTIONS.items():
                for _ in range(int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))):
                    time_ms = shown.time_ms + int(rng.integers(-6_000, 2 * within_ms))
                    found.append(ActionEvent(f"r{shown.number}", max(time_ms, 0), 100 + index, name))
        return found

    def use(self, spec: FeatureSpec, saved: tuple[dict[int, MemoryStates], int] | None = None) -> None:
        """The joiner goes on from where it is, or from a checkpoint, under a spec."""
        self.current = spec
        self.engine.restore(saved or self.engine.checkpoint(), self.registry(spec))
        # A drain leaves no timer.
        for bucket in self.engine.states:
            self.engine.touch(bucket)

    def read(self, first: int, last: int) -> None:
        for at in range(first, last):
            one, producer = self.records[at]
            if isinstance(one, Shown):
                self._read_request(one, producer)
            else:
                shown = self.shown[one.request_id]
                self.seen.act(at, one, shown)
                self.engine.record(shown.bucket, encode(one))
            seen = self.seen
            seen.newest_ms = max(seen.newest_ms, _time_ms(one))
            if self.rng.random() < 0.3:
                seen.watermark_ms = max(seen.newest_ms - LATENESS_MS - 1, 0)
                self.engine.watermark(seen.watermark_ms)

    def _read_request(self, shown: Shown, producer: FeatureSpec) -> None:
        request_id = f"r{shown.number}"
        # Only one that comes again may be refused, since it may have been forgotten.
        with suppress(RecordError) if request_id in self.seen.joined else nullcontext():
            self.engine.record(shown.bucket, encode(shown.event(producer)))
        self.seen.joined.setdefault(request_id, (self.current, producer))

    def run(self) -> None:
        """Reads all: after each part the joiner takes another spec, at a stop, after a drain, or at a crash that costs some records."""
        cuts = [0, *sorted(self.rng.choice(len(self.records), PARTS - 1, replace=False).tolist()), len(self.records)]
        for first, last in pairwise(cuts):
            if self.rng.random() < 0.3:
                self.engine.watermark(END_OF_TIME_MS)
                self.seen.drain()
            self.use(self.specs[int(self.rng.integers(SPECS))])
            saved, seen = self.engine.checkpoint(), deepcopy(self.seen)
            if self.rng.random() < 0.5:
                self.read(first, int(self.rng.integers(first, last + 1)))
                self.seen = seen
                self.use(self.specs[int(self.rng.integers(SPECS))], saved)
            self.read(first, last)
        self.engine.watermark(self.seen.newest_ms + 10_000_000)
        assert self.engine.empty
        self.engine.joiner.close()

    def expected(self) -> list[Row]:
        """The rows of every request under the spec that it was joined under, with what its record had."""
        rows: list[Row] = []
        arrived = [action for _, action in sorted(self.seen.actions.items())]
        for request_id, (spec, producer) in self.seen.joined.items():
            event = self.shown[request_id].event(spec, (producer,))
            rows += oracle(spec, [event], [a for a in arrived if a.request_id == request_id], self.seen.late)
        return sorted(rows)


def _time_ms(one: Shown | ActionEvent) -> int:
    return one.time_ms if isinstance(one, Shown) else one.event_time_ms


def _taught(blocks: list[ExampleBlock], specs: SpecRegistry) -> list[Row]:
    """The rows that a trainer on the current one of ``specs`` learns from."""
    rows: list[Row] = []
    for block in map(specs.block, blocks):
        mask = block.mask.reshape(len(block), -1).any(axis=1)
        for at in np.flatnonzero(mask).tolist():
            task = int(block.mask.reshape(len(block), -1)[at].argmax())
            kind, label = block.label_kind[at], int(block.labels.reshape(len(block), -1)[at, task])
            request, name = block.request_ids[block.request_index[at]], specs.current.tasks[task].name
            times = int(block.action_time_ms[at])
            rows.append(
                (request, int(block.impression_ids[at]), name, label, float(block.sampling_rate[at]), times, kind)
            )
    return sorted(rows)


def test_each_request_is_sampled_and_labelled_by_the_spec_that_it_was_joined_under(seed: int, tmp_path: Path) -> None:
    run = Run(seed, tmp_path)
    run.run()
    blocks, expected, found = run.engine.blocks, run.expected(), list[Row]()
    for block in blocks:
        found += rows_of(_spec_of(block, run), [block])
        _check_values(block, run)
    common = set.intersection(*({task.name for task in spec.tasks} for spec in run.specs))
    assert sorted(row for row in found if row[2] in common) == [row for row in expected if row[2] in common]
    # Of the other tasks some rows are left out, and actions that nobody asked for when they came; none is there twice.
    rates = {row[:3]: row[4] for row in expected}
    assert all(rates[row[:3]] == row[4] for row in found if row[:3] in rates)
    assert max(Counter(row[:4] for row in found).values()) == 1
    for spec in run.specs:
        names = {task.name for task in spec.tasks}
        assert _taught(blocks, run.registry(spec)) == sorted(row for row in found if row[2] in names)


def _check_values(block: ExampleBlock, run: Run) -> None:
    """Rows have the values that every spec on their way has."""
    spec, n = _spec_of(block, run), len(block)
    fids, lengths = block.row_fids()
    counts = np.full(n, len(spec.slots)) if lengths is None else lengths.reshape(n, -1).sum(axis=1)
    for at, row in enumerate(np.split(fids, np.cumsum(counts)[:-1])):
        request_id = block.request_ids[block.request_index[at]]
        shown, index = run.shown[request_id], int(block.impression_ids[at]) - 100
        assert shown.exposed is None or shown.exposed[index]
        due = shown.only(index).event(spec, run.seen.joined[request_id])
        assert row.tolist() == [*due.context_fids.tolist(), *due.item_fids.tolist()]
        assert block.dense.reshape(n, -1)[at].tolist() == due.dense.tolist()
        # A block of several requests has NaN for those without scores.
        none = np.full(len(spec.tasks), np.nan, np.float32)
        found = none if block.served_logits is None else block.served_logits.reshape(n, -1)[at]
        np.testing.assert_array_equal(found, none if due.served_logits is None else due.served_logits)


def _spec_of(block: ExampleBlock, run: Run) -> FeatureSpec:
    return next(spec for spec in run.specs if spec.hash == block.spec_hash)

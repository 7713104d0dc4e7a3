"""What the join must produce, from all events at once and row by row, and the same form of what it did produce.

Written from ``docs/join.md`` alone; it shares no code with the joiner, nor with the plain join of the audit. A row is
(request, impression, task, label, rate, action time, kind).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import reduce
from hashlib import blake2b
from math import exp, isnan
from operator import add

import numpy as np

from rillet.audit.expected import ExpectedExamples, row_kind
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind, RecordError, Task, decode
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast
from tests.joiner.support import Arrival

Row = tuple[object, ...]


def pair_rate(spec: FeatureSpec, task: Task, event: FeatureEvent, index: int) -> float:
    """The documented rate of a pair's negative, impression by impression."""
    rate = task.negative_rate
    if task.rate_by_score is not None and event.served_logits is not None:
        logit = float(event.served_logits[index * len(spec.tasks) + spec.tasks.index(task)])
        if not isnan(logit):
            p = 1 / (1 + exp(-round(min(max(logit, -16.0), 16.0) * 16) / 16))
            rate = min(max(rate / task.rate_by_score.mean_score * p, task.rate_by_score.floor), 1.0)
    if task.rate_by_slot is not None:
        for one in task.rate_by_slot.classes:
            wanted = next(s for s in spec.slots if s.name == task.rate_by_slot.slot).fids(one.values).tolist()
            # All fids of the impression: only those of the slot can be among them.
            if {*event.context_fids.tolist(), *_item_fids(spec, event, index)} & set(wanted):
                rate = one.rate
    return float(np.float32(rate))


def _item_fids(spec: FeatureSpec, event: FeatureEvent, index: int) -> list[int]:
    slots = len(spec.item)
    lengths = [1] * slots * len(event.impression_ids) if event.item_lengths is None else event.item_lengths.tolist()
    start = sum(lengths[: index * slots])
    fids: list[int] = event.item_fids[start : start + sum(lengths[index * slots : (index + 1) * slots])].tolist()
    return fids


def kept(seed: int, task: str, request_id: str, impression_id: int, rate: float) -> bool:
    """The documented sampling rule in plain integers, written apart from the joiner's arrays."""
    mask = (1 << 64) - 1
    x = int.from_bytes(blake2b(f"{seed}|{task}|{request_id}".encode(), digest_size=8).digest(), "little")
    x = ((x ^ (impression_id & mask)) + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    return (x >> 11) * 2.0**-53 < rate


def usable(
    spec: FeatureSpec, arrivals: Iterable[Arrival], max_ahead_ms: int
) -> tuple[list[FeatureEvent], list[ActionEvent]]:
    """Features and actions that are no dead letters, in order of arrival."""
    features: list[FeatureEvent] = []
    actions: list[ActionEvent] = []
    for arrival in arrivals:
        try:
            event = decode(arrival.data)
            if isinstance(event, FeatureEvent):
                spec.check_feature(event)
            elif isinstance(event, ActionEvent):
                spec.check_action(event)
            else:
                continue
        except RecordError:
            continue
        if arrival.key != event.request_id.encode() or not -1 <= arrival.ingest_ms < (1 << 32) * 1000:
            continue
        if arrival.ingest_ms >= 0 and event.event_time_ms > arrival.ingest_ms + max_ahead_ms:
            continue
        if isinstance(event, FeatureEvent):
            features.append(event)
        else:
            actions.append(event)
    return features, actions


def turning(rule: AtLeast | None, actions: Iterable[ActionEvent]) -> ActionEvent | None:
    """The action with which a rule is first true, of the valid ones on a pair."""
    counted: dict[object, float] = {}
    for a in actions:
        told = a.action_id or (a.action, a.event_time_ms, a.value)
        measures = {
            "count": len(counted) + 1,
            "sum": None if a.value is None else reduce(add, counted.values(), 0.0) + a.value,
            "value": a.value,
        }
        reached = measures[rule.measure] if rule else 1
        if told in counted or reached is None:
            continue
        if rule is None or reached >= rule.number:
            return a
        # A value is of one action alone, whichever came before it.
        if rule.measure != "value" and len(counted) < MOST_GATHERED:
            counted[told] = a.value or 0.0
    return None


def oracle(
    spec: FeatureSpec,
    features: Iterable[FeatureEvent],
    actions: Iterable[ActionEvent],
    late: Collection[ActionEvent] = (),
) -> list[Row]:
    """Sorted rows (request, impression, task, label, rate, action time, kind) that the join must produce.

    Events in order of arrival: of two features of a request, or two actions on a pair, the first counts.

    :param late: the actions that come after the windows of their pairs were closed.
    """
    acted: dict[tuple[str, int], list[ActionEvent]] = defaultdict(list)
    for a in actions:
        acted[a.request_id, a.impression_id].append(a)
    rows: list[Row] = []
    for event in {f.request_id: f for f in reversed(list(features))}.values():
        for index, impression in enumerate(event.impression_ids.tolist()):
            if event.exposed is not None and not event.exposed[index]:
                continue
            for task in spec.tasks:
                valid = [
                    a
                    for a in acted[event.request_id, impression]
                    if a.action in task.actions
                    and -task.early_ms <= a.event_time_ms - event.event_time_ms < task.window_ms
                ]
                made = turning(task.at_least, valid)
                is_late = made in late
                immediate = task.labels == "immediate"
                rate = pair_rate(spec, task, event, index)
                sampled = kept(spec.sampling_seed, task.name, event.request_id, impression, rate)
                emits = task.late == "correct" or (task.late == "emit_unsampled" and not sampled)
                if made and (not is_late or emits):
                    time_ms = made.event_time_ms
                    kind = LabelKind.LATE_POSITIVE if is_late and sampled else LabelKind.POSITIVE
                    kind = LabelKind.CORRECTION if immediate else kind
                    rows.append((event.request_id, impression, task.name, 1, rate, time_ms, kind))
                if (immediate or not made or is_late) and sampled:
                    kind = LabelKind.PROVISIONAL if immediate else LabelKind.NEGATIVE
                    rows.append((event.request_id, impression, task.name, 0, rate, -1, kind))
    return sorted(rows)


def rows_of(spec: FeatureSpec, blocks: Iterable[ExampleBlock]) -> list[Row]:
    """The same tuples from example blocks; every block must satisfy the spec."""
    rows: list[Row] = []
    for block in blocks:
        spec.check_block(block)
        mask = block.mask.reshape(len(block), -1)
        assert (mask.sum(axis=1) == 1).all()
        labels = block.labels.reshape(len(block), -1)
        for i in range(len(block)):
            task = int(mask[i].argmax())
            assert labels[i].sum() == labels[i, task]
            kind = LabelKind(block.label_kind[i])
            assert labels[i, task] == (kind not in (LabelKind.NEGATIVE, LabelKind.PROVISIONAL))
            rows.append(
                (
                    block.request_ids[block.request_index[i]],
                    int(block.impression_ids[i]),
                    spec.tasks[task].name,
                    int(labels[i, task]),
                    float(block.sampling_rate[i]),
                    int(block.action_time_ms[i]),
                    kind,
                )
            )
    return sorted(rows)


def rows_due(expected: ExpectedExamples) -> list[Row]:
    """The rows that the plain join expects, in the oracle's form."""
    rows: list[Row] = []
    for label, due in ((1, expected.positive), (0, expected.negative)):
        for row, column in np.argwhere(due):
            task = expected.spec.tasks[column]
            request_id, impression_id = expected.request_ids[expected.request[row]], int(expected.impression_ids[row])
            time_ms = int(expected.action_time_ms[row, column]) if label else -1
            kind = row_kind(task.labels, positive=bool(label))
            rate = float(expected.rates[row, column])
            rows.append((request_id, impression_id, task.name, label, rate, time_ms, kind))
    return sorted(rows)

"""Records of one feature spec as those of another, against the same raw values encoded under the other."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, Slot, make_fids
from rillet.schemas.conversion import SpecConversion, without_idle_rows
from rillet.schemas.fid import MISSING_VALUE
from tests.schemas.specs import CHANGED, OLD, PLAIN

RAW = {
    "user": [7],
    "recent": [[3, 2, 1]],
    "film": [11, 12, 13],
    "genres": [["drama", "crime"], [], ["comedy"]],
}
DENSE = {"price": [1.0, 2.0, 3.0], "age": [10.0, 20.0, 30.0]}
LOGITS = {"click": [0.1, 0.2, 0.3], "buy": [-1.0, -2.0, -3.0]}


def side(spec: FeatureSpec, which: str, rows: int) -> tuple[Any, Any]:
    """What the raw values give under a spec, as :func:`SpecConversion` is to make it of the old one's columns."""
    fids, lengths = [], []
    for row in range(rows):
        for slot in getattr(spec, which):
            values = RAW.get(slot.name, [None] * rows)[row]
            listed = [] if values is None else values if isinstance(values, list) else [values]
            made = slot.fids(listed)[: slot.max_values]
            if not len(made) and not slot.ragged:
                made = make_fids(slot.slot, [MISSING_VALUE])
            fids.append(made)
            lengths.append(len(made))
    ragged = any(slot.ragged for slot in getattr(spec, which))
    return np.concatenate([*fids, np.empty(0, np.int64)]), np.array(lengths, np.uint16) if ragged else None


def table(columns: dict[str, list[float]], names: Any, filling: float) -> Any:
    rows = [[columns[name][row] if name in columns else filling for name in names] for row in range(3)]
    return np.array(rows, np.float32).reshape(-1)


def event_of(spec: FeatureSpec) -> FeatureEvent:
    context, item = side(spec, "context", 1), side(spec, "item", 3)
    return FeatureEvent(
        request_id="r1",
        event_time_ms=1_700_000_000_000,
        spec_hash=spec.hash,
        context_fids=context[0],
        context_lengths=context[1],
        impression_ids=np.array([101, 102, 103]),
        item_fids=item[0],
        item_lengths=item[1],
        dense=table(DENSE, spec.dense_names, 0),
        served_logits=table(LOGITS, [task.name for task in spec.tasks], np.nan),
        model="films",
        model_version=3,
    )


def block_of(spec: FeatureSpec, tasks: list[str], rows: list[int]) -> ExampleBlock:
    """Rows of the event's impressions, one per task named, as far as the spec has the task."""
    names = [task.name for task in spec.tasks]
    chosen = [(row, names.index(task)) for row, task in zip(rows, tasks, strict=True) if task in names]
    index, task = np.array([row for row, _ in chosen], np.int64), np.array([at for _, at in chosen], np.int64)
    event, n = event_of(spec), len(chosen)
    mask = np.eye(len(names), dtype=np.uint8)[task]
    item_fids, item_lengths = event.item_fids, event.item_lengths
    per_row = np.ones((3, len(spec.item)), np.int64) if item_lengths is None else item_lengths.reshape(3, -1)
    ends = np.cumsum(per_row.sum(axis=1))
    parts = [item_fids[ends[row] - per_row[row].sum() : ends[row]] for row in index]
    return ExampleBlock(
        spec_hash=spec.hash,
        bucket=2,
        request_ids=["r1"],
        request_index=np.zeros(n, np.int32),
        impression_ids=event.impression_ids[index],
        context_fids=event.context_fids,
        context_lengths=event.context_lengths,
        item_fids=np.concatenate([*parts, np.empty(0, np.int64)]),
        item_lengths=None if item_lengths is None else item_lengths.reshape(3, -1)[index].reshape(-1),
        dense=event.dense.reshape(3, len(spec.dense))[index].reshape(-1),
        labels=mask.reshape(-1) * 0,
        mask=mask.reshape(-1),
        sampling_rate=np.full(n, 0.5, np.float32),
        label_kind=np.full(n, 1, np.uint8),
        feature_time_ms=np.full(n, event.event_time_ms),
        action_time_ms=np.full(n, -1),
        feature_ingest_ms=index + 5,
        action_ingest_ms=np.full(n, -1),
        served_logits=None if event.served_logits is None else event.served_logits.reshape(3, -1)[index].reshape(-1),
    )


def assert_equal(found: Any, expected: Any) -> None:
    for name in (f.name for f in fields(expected)):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_array_equal(ours, theirs, name)
        else:
            assert ours == theirs, name


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("back", [False, True])
def test_an_event_becomes_what_the_other_spec_makes_of_the_same_values(change: str, back: bool) -> None:
    old, new = (CHANGED[change], OLD) if back else (OLD, CHANGED[change])
    # Values that the old spec leaves out are not there for the new one.
    event = event_of(old)
    old.check_feature(event)
    converted = SpecConversion(old, new).feature(event)
    new.check_feature(converted)
    if not back:
        assert_equal(converted, event_of(new))


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("tasks", [["click", "buy", "click", "buy"], ["click"] * 4, ["buy"] * 4])
def test_a_block_becomes_what_the_other_spec_makes_of_the_same_rows(change: str, tasks: list[str]) -> None:
    new, rows = CHANGED[change], [2, 0, 1, 2]
    block = block_of(OLD, tasks, rows)
    OLD.check_block(block)
    converted = SpecConversion(OLD, new).block(block)
    new.check_block(converted)
    assert len(converted) == len(block)
    taught = without_idle_rows(converted)
    new.check_block(taught)
    assert_equal(taught, block_of(new, tasks, rows))


def test_a_positive_of_a_task_that_is_gone_is_a_row_that_teaches_nothing() -> None:
    only_buy = CHANGED["task removed"]
    block = block_of(OLD, ["click", "buy"], [0, 1])
    positive = replace(block, labels=block.mask, label_kind=np.array([0, 0], np.uint8))
    converted = SpecConversion(OLD, only_buy).block(positive)
    only_buy.check_block(converted)
    assert converted.mask.tolist() == converted.labels.tolist() == [0, 1]
    assert without_idle_rows(converted).impression_ids.tolist() == [102]


def test_specs_of_one_value_per_slot_need_no_lengths() -> None:
    wider = replace(PLAIN, item=(Slot("shop", 18, "id"), *PLAIN.item))
    event = SpecConversion(PLAIN, wider).feature(event_of(PLAIN))
    assert event.item_lengths is None
    assert_equal(event, event_of(wider))


def test_a_column_that_is_the_same_is_not_copied() -> None:
    new = CHANGED["window and rate"]
    event = event_of(OLD)
    converted = SpecConversion(OLD, new).feature(event)
    assert converted.item_fids is event.item_fids
    assert converted.context_lengths is event.context_lengths

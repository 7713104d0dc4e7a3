"""What a feature spec makes of raw values, and what it demands of events and blocks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from rillet.schemas import (
    ExampleBlock,
    RecordError,
    Slot,
    SpecMismatchError,
    TimeUnitError,
    make_fids,
    quantile_bins,
    token_values,
)
from tests.schemas.shop import SPEC, event


def test_raw_values_become_fids_row_after_row_slots_in_order() -> None:
    made = event()
    assert made.context_fids.tolist() == [make_fids(1, 7), make_fids(2, 2)]
    assert made.context_lengths is None
    a, b = make_fids(9, token_values(["a", "b"]))
    assert made.item_fids.tolist() == [a, b, make_fids(10, 4), make_fids(10, 5)]
    assert made.item_lengths is not None
    assert made.item_lengths.tolist() == [2, 1, 0, 1]
    SPEC.check_feature(made)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1]}, "context column hour is missing"),
        ({"user": [1, 2], "hour": [1]}, "hour has 1 rows, the others 2"),
        ({"user": [-1], "hour": [1]}, "user: an id of slot 1"),
        ({"user": ["x"], "hour": [1]}, "user: "),
        ({"user": [1], "hour": [float("nan")]}, "hour: .*not finite"),
    ],
)
def test_raw_values_that_do_not_fit_name_their_column(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        SPEC.encode_side("context", columns)


def test_too_many_values_of_a_ragged_slot_are_refused() -> None:
    with pytest.raises(RecordError, match="tags: 4 values, max_values is 3"):
        SPEC.encode_side("item", {"tags": [list("abcd")], "shop": [1]})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spec_hash": 1}, SpecMismatchError, "spec_hash: written under"),
        ({"context_fids": make_fids(1, [7, 8])}, RecordError, "context fids: value 1 is of slot 1, expected slot 2"),
        ({"context_fids": make_fids(1, [7])}, RecordError, "context fids: 1 values, expected 1 x 2"),
        ({"item_lengths": np.ones(3, np.uint16)}, RecordError, "item lengths: 3 values, expected 2 x 2"),
        ({"item_lengths": np.array([4, 1, 0, 1], np.uint16)}, RecordError, "more values than its max_values"),
        ({"item_lengths": np.array([2, 0, 0, 2], np.uint16)}, RecordError, "a slot has more values"),
        ({"item_lengths": np.array([3, 0, 0, 1], np.uint16)}, RecordError, "a slot with one value per row has none"),
        ({"item_lengths": np.array([1, 1, 0, 1], np.uint16)}, RecordError, "item fids: 4 values, lengths ask for 3"),
        ({"dense": np.ones(3, np.float32)}, RecordError, "dense: 3 numbers, expected 2 x 1"),
        ({"dense": np.array([1, np.inf], np.float32)}, RecordError, "dense: a number is not finite"),
        ({"impression_ids": np.array([1, 1])}, RecordError, "impression_ids: an id stands twice"),
        ({"impression_ids": np.empty(0, np.int64)}, RecordError, "impression_ids: the request has no"),
        ({"served_logits": np.zeros(3, np.float32)}, RecordError, "served_logits: 3 numbers, expected 2 x 2"),
        ({"exposed": np.ones(3, np.uint8)}, RecordError, "exposed: 3 values, expected 2"),
        ({"exposed": np.array([1, 2], np.uint8)}, RecordError, "exposed: a value is neither 0 nor 1"),
        ({"event_time_ms": -1}, RecordError, "event_time_ms: -1 is before 1970"),
        ({"event_time_ms": 5 * 10**12}, RecordError, "event_time_ms: 5000000000000 is .* after 2105"),
        ({"event_time_ms": 1_700_000_000}, TimeUnitError, "1700000000 looks like seconds, .*: 1700000000000"),
        ({"event_time_ms": 1_700_000_000_000_000}, TimeUnitError, "looks like microseconds, .*: 1700000000000"),
        ({"event_time_ms": 1_700_000_000_000_000_000}, TimeUnitError, "looks like nanoseconds, .*: 1700000000000"),
    ],
)
def test_an_event_that_the_spec_does_not_describe_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SPEC.check_feature(event(**changes))


def block(**changes: Any) -> ExampleBlock:
    columns: dict[str, Any] = {
        "spec_hash": SPEC.hash,
        "bucket": 0,
        "request_ids": ["r"],
        "request_index": np.zeros(1, np.int32),
        "impression_ids": np.ones(1, np.int64),
        "context_fids": np.concatenate([make_fids(1, [7]), make_fids(2, [2])]),
        "item_fids": make_fids(10, [4]),
        "item_lengths": np.array([0, 1], np.uint16),
        "dense": np.ones(1, np.float32),
        "labels": np.array([1, 0], np.uint8),
        "mask": np.array([1, 0], np.uint8),
        "sampling_rate": np.array([0.25], np.float32),
        "label_kind": np.zeros(1, np.uint8),
        "feature_time_ms": np.ones(1, np.int64),
        "action_time_ms": np.ones(1, np.int64),
        "feature_ingest_ms": np.ones(1, np.int64),
        "action_ingest_ms": np.ones(1, np.int64),
    }
    return ExampleBlock(**columns | changes)


def test_an_example_block_must_fit_together() -> None:
    SPEC.check_block(block())
    for f in fields(ExampleBlock):
        value = getattr(block(), f.name)
        if isinstance(value, np.ndarray) and f.name != "impression_ids" and not f.name.endswith(("_fids", "_lengths")):
            with pytest.raises(RecordError, match=rf"{f.name}: \d+ values, expected"):
                SPEC.check_block(block(**{f.name: np.concatenate([value, value, value[:1]])}))
    for changes, message in (
        ({"sampling_rate": np.zeros(1, np.float32)}, "a rate is not in"),
        ({"sampling_rate": np.array([np.nan], np.float32)}, "a rate is not in"),
        ({"request_index": np.ones(1, np.int32)}, "points outside"),
        ({"labels": np.array([7, 0], np.uint8)}, "neither 0 nor 1"),
        ({"mask": np.array([0, 2], np.uint8)}, "neither 0 nor 1"),
        ({"feature_time_ms": np.array([5 * 10**12])}, "feature_time_ms: a time is"),
        ({"feature_time_ms": np.array([-1])}, "feature_time_ms: a time is"),
        ({"action_time_ms": np.array([-2])}, "action_time_ms: a time is"),
        ({"context_fids": make_fids(1, [7, 8])}, "context fids: value 1 is of slot 1, expected slot 2"),
        ({"item_fids": make_fids(1, [7])}, "item fids: value 0 is of slot 1, expected slot"),
        ({"request_ids": ["r", "s"]}, "context fids: 2 values, expected 2 x 2"),
        ({"spec_hash": 0}, "written under"),
    ):
        with pytest.raises(RecordError, match=message):
            SPEC.check_block(block(**changes))


def test_quantile_bins_split_evenly_and_merge_repeated_edges() -> None:
    values = np.arange(1000)
    bins = quantile_bins(values, 4)
    assert np.bincount(np.searchsorted(bins, values, side="right")).tolist() == [250, 250, 250, 250]
    assert quantile_bins([1, 1, 1, 1, 9], 4) == (1.0,)


def test_integers_are_ids_whatever_holds_them() -> None:
    slot = Slot("film", 16, "id")
    expected = slot.fids([1, 2]).tolist()
    for values in (
        np.array([1, 2], object),
        [np.uint64(1), 2],
        [np.uint64(1), np.int64(2)],
        np.array([1, 2], np.uint64),
        (1, 2),
    ):
        assert slot.fids(values).tolist() == expected
    assert not len(slot.fids([]))


@pytest.mark.parametrize("values", [[True, 2], [7.9], ["7"], [None], np.array([1.0]), [[7, 8]]])
def test_what_is_no_integer_is_no_id(values: Any) -> None:
    with pytest.raises(ValueError, match="slot film: "):
        Slot("film", 16, "id").fids(values)


@pytest.mark.parametrize("row", ["ab", b"ab", {"a": 1}])
def test_text_is_not_taken_letter_by_letter(row: Any) -> None:
    columns = {slot.name: [row] if slot.max_values > 1 else [1] for slot in SPEC.item}
    with pytest.raises(RecordError, match="a row is text or a mapping"):
        SPEC.encode_side("item", columns)

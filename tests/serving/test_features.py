"""A request's tensor becomes exactly the columns that are logged and trained on, or a named 400."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import (
    MAX_TIME_MS,
    FeatureEvent,
    FeatureSpec,
    History,
    RecordError,
    Slot,
    Task,
    decode,
    encode,
    make_fids,
)
from rillet.serving.errors import InvalidRequestError
from rillet.serving.features import RequestLayout, timeout_ms
from rillet.serving.protocol import InferRequest
from tests.serving.helpers import demo_spec, request_tensor


def _request(inputs: dict[str, Any], request_id: str = "r1", **parameters: Any) -> InferRequest:
    return InferRequest(request_id, parameters, inputs, None, False)


def _parse(spec: FeatureSpec, inputs: dict[str, Any], **parameters: Any) -> Any:
    return RequestLayout(spec, 100).parse(_request(inputs, **parameters), 1000, "new")


def _tensor(rows: int = 3) -> np.ndarray:
    return request_tensor(np.random.default_rng(7), rows)


@st.composite
def _events(draw: st.DrawFn) -> tuple[FeatureSpec, FeatureEvent]:
    """Any spec, and an event of it as the spec itself encodes one."""
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    contexts = draw(st.integers(0, len(widths) - 1))
    slots = [Slot(f"s{n}", n + 1, "id", width) for n, width in enumerate(widths)]
    if draw(st.booleans()):
        # A history of at most one value may have none too.
        history = History(slots[-1].name, "t", "s0")
        slots.insert(contexts, Slot("history", 99, "history", draw(st.integers(1, 3)), history=history))
        contexts += 1
    spec = FeatureSpec("any", tuple(slots[:contexts]), tuple(slots[contexts:]), (), (Task("t", "t", 1),))
    rows = draw(st.integers(1, 4))

    def column(slot: Slot, count: int) -> list[Any]:
        value = st.integers(0, 2**48 - 1)
        cell = st.lists(value, max_size=slot.max_values) if slot.ragged else value
        return draw(st.lists(cell, min_size=count, max_size=count))

    context, context_lengths = spec.encode_side("context", {slot.name: column(slot, 1) for slot in spec.context})
    items, item_lengths = spec.encode_side("item", {slot.name: column(slot, rows) for slot in spec.item})
    ids = np.arange(rows, dtype=np.int64) * 3
    return spec, FeatureEvent("r", 5, spec.hash, context, ids, items, context_lengths, item_lengths)


@settings(max_examples=60, deadline=None)
@given(_events())
def test_an_event_replayed_as_a_request_is_logged_as_the_same_event(case: tuple[FeatureSpec, FeatureEvent]) -> None:
    spec, event = case
    layout = RequestLayout(spec, 100)
    tensor = layout.to_tensor(event)
    assert tensor.shape == (len(event.impression_ids), spec.width)
    request = _request({"fids": tensor, "impression_ids": event.impression_ids}, "r", event_time_ms=5)
    logits = np.zeros((len(tensor), 1), np.float32)
    logged = layout.parse(request, 0, "new").to_event(spec, logits, "m", 1)
    spec.check_feature(logged)
    again = decode(encode(logged))
    for name in ("context_fids", "context_lengths", "impression_ids", "item_fids", "item_lengths"):
        expected, found = getattr(event, name), getattr(again, name)
        assert (expected is None) == (found is None)
        if expected is not None:
            np.testing.assert_array_equal(found, expected)


def test_an_event_that_the_tensor_cannot_say_is_refused() -> None:
    spec = demo_spec()
    lengths = np.array([0, 1, 1], np.uint16)
    items = np.concatenate([make_fids(17, [3]), make_fids(18, [4])])
    context = np.concatenate([make_fids(slot.slot, [1]) for slot in spec.context])
    event = FeatureEvent("r", 5, spec.hash, context, np.zeros(1, np.int64), items, None, lengths)
    with pytest.raises(RecordError, match="lengths"):
        RequestLayout(spec, 100).to_tensor(event)


def test_padding_between_values_is_left_out() -> None:
    tensor = _tensor(1)
    tensor[0, 7:] = [0, *make_fids(18, [9]), 0, 0, *make_fids(18, [8]), 0]
    parsed = _parse(demo_spec(), {"fids": tensor})
    assert parsed.item_lengths.tolist() == [1, 1, 2]
    assert parsed.item_fids[2:].tolist() == make_fids(18, [9, 8]).tolist()


def test_a_request_without_id_time_and_impressions_gets_them() -> None:
    parsed = RequestLayout(demo_spec(), 100).parse(_request({"fids": _tensor(3)}, ""), 1234, "new")
    assert (parsed.request_id, parsed.event_time_ms, parsed.log) == ("new", 1234, True)
    assert parsed.impression_ids.tolist() == [0, 1, 2]


def _changed(row: int, column: int, value: int) -> np.ndarray:
    tensor = _tensor(3)
    tensor[row, column] = value
    return tensor


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "inputs"),
        ({"fids": _tensor(), "films": _tensor()}, "inputs"),
        ({"fids": _tensor().astype(np.float32)}, "fids.datatype"),
        ({"fids": _tensor()[:, :12]}, "fids.shape"),
        ({"fids": _tensor().reshape(-1)}, "fids.shape"),
        ({"fids": _tensor()[:0]}, "fids.shape"),
        ({"fids": request_tensor(np.random.default_rng(1), 101)}, "fids.shape"),
        ({"fids": _changed(2, 0, int(make_fids(1, [999_999])[0]))}, "fids[2][0]"),
        ({"fids": _changed(1, 5, int(make_fids(17, [1])[0]))}, "fids[1][5]"),
        ({"fids": _changed(1, 5, -1)}, "fids[1][5]"),
        ({"fids": _changed(1, 6, 0)}, "fids[1][6]"),
        ({"fids": _changed(2, 9, 5)}, "fids[2][9]"),
        ({"fids": np.where(np.arange(13) == 1, 0, _tensor())}, "fids[0][1]"),
        ({"fids": _tensor(), "impression_ids": np.arange(2)}, "impression_ids.shape"),
        ({"fids": _tensor(), "impression_ids": np.zeros((3, 1), np.int64)}, "impression_ids.shape"),
        ({"fids": _tensor(), "impression_ids": np.array([1, 2, 1])}, "impression_ids"),
        ({"fids": _tensor(), "dense": np.zeros((3, 0), np.float32)}, "inputs"),
    ],
)
def test_a_tensor_that_does_not_fit_the_spec_is_named(inputs: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _parse(demo_spec(), inputs)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("dense", "field"),
    [
        (None, "inputs"),
        (np.zeros((3, 1), np.float32), "dense.shape"),
        (np.zeros((3, 2), np.int64), "dense.datatype"),
        (np.array([[0, 0], [0, np.nan], [0, 0]], np.float32), "dense[1][1]"),
        (np.array([[0, 0], [0, 0], [np.inf, 0]], np.float32), "dense[2][0]"),
    ],
)
def test_dense_features_must_be_there_and_finite(dense: Any, field: str) -> None:
    inputs = {"fids": _tensor()} if dense is None else {"fids": _tensor(), "dense": dense}
    with pytest.raises(InvalidRequestError) as caught:
        _parse(demo_spec(dense=True), inputs)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"event_time_ms": -1}, "parameters.event_time_ms"),
        ({"event_time_ms": 1.5}, "parameters.event_time_ms"),
        ({"event_time_ms": True}, "parameters.event_time_ms"),
        ({"event_time_ms": MAX_TIME_MS}, "parameters.event_time_ms"),
        ({"log": 1}, "parameters.log"),
    ],
)
def test_parameters_of_the_wrong_kind_are_named(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _parse(demo_spec(), {"fids": _tensor()}, **parameters)
    assert caught.value.field == field


def test_the_timeout_is_ours_in_ms_or_the_clients_in_microseconds() -> None:
    assert timeout_ms(_request({}), 7.0) == 7.0
    assert timeout_ms(_request({}, timeout_ms=5), 7.0) == 5.0
    assert timeout_ms(_request({}, timeout=5000), 7.0) == 5.0
    for wrong in (0, -1, "5", True, float("nan"), 1e13):
        with pytest.raises(InvalidRequestError, match="timeout_ms"):
            timeout_ms(_request({}, timeout_ms=wrong), 7.0)

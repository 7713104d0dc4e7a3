"""Bodies of the Open Inference Protocol: what is right is read exactly, what is wrong is a named 400."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rillet.serving.errors import InvalidRequestError
from rillet.serving.protocol import format_error, format_infer_response, parse_infer_request, parse_json_length


def _body(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "fids", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    document: dict[str, Any] = {"id": "r1", "inputs": [{**tensor, **changes.pop("tensor", {})}]}
    document.update(changes)
    return document


def _refusal(body: bytes, json_length: int) -> InvalidRequestError | None:
    """Why a body is refused, None if it is read; any other exception fails the test."""
    try:
        parse_infer_request(body, json_length)
    except InvalidRequestError as error:
        return error
    return None


def _parse(document: Any) -> Any:
    return parse_infer_request(json.dumps(document).encode())


tensors = st.one_of(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(tensors, st.sampled_from(["flat", "nested", "binary"])), max_size=3))
def test_tensors_are_read_exactly_in_every_form(inputs: list[tuple[np.ndarray, str]]) -> None:
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for index, (array, form) in enumerate(inputs):
        datatype = "INT64" if array.dtype == np.int64 else "FP32"
        entry: dict[str, Any] = {"name": f"t{index}", "datatype": datatype, "shape": list(array.shape)}
        if form == "binary":
            entry["parameters"] = {"binary_data_size": array.nbytes}
            blobs.append(array.tobytes())
        else:
            entry["data"] = (array.reshape(-1) if form == "flat" or array.size == 0 else array).tolist()
        entries.append(entry)
    text = json.dumps({"inputs": entries}).encode()
    request = parse_infer_request(text + b"".join(blobs), len(text))
    for index, (array, _) in enumerate(inputs):
        np.testing.assert_array_equal(request.inputs[f"t{index}"], array)
        assert request.inputs[f"t{index}"].dtype == array.dtype
        assert request.inputs[f"t{index}"].flags.aligned


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["fids", "dense"]) | _json,
        "datatype": st.sampled_from(["INT64", "FP32", "BYTES"]) | _json,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | _json,
        "data": st.lists(st.integers(), max_size=8) | _json,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | _json}) | _json,
    },
)
_documents = st.fixed_dictionaries(
    {},
    optional={
        "id": _json,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": _json}) | _json,
        "inputs": st.lists(_fields | _json, max_size=3) | _json,
        "outputs": st.lists(
            st.fixed_dictionaries({}, optional={"name": _json, "parameters": _json}) | _json, max_size=2
        )
        | _json,
    },
)


@settings(max_examples=40, deadline=None)
@given(_documents | _json, st.binary(max_size=40))
def test_any_json_is_read_or_refused_by_name(document: Any, tail: bytes) -> None:
    text = json.dumps(document).encode()
    refusal = _refusal(text + tail, len(text))
    if refusal is not None:
        assert json.loads(format_error(str(refusal)))["error"].startswith(refusal.field)


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_refused_by_name_or_read(body: bytes, length: int) -> None:
    refusal = _refusal(body, min(length, len(body)))
    assert refusal is None or refusal.field


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "body"),
        (_body(id=7), "id"),
        (_body(id="x" * 513), "id"),
        (_body(parameters=[]), "parameters"),
        (_body(parameters={"binary_data_output": 1}), "parameters.binary_data_output"),
        ({}, "inputs"),
        ({"inputs": [3]}, "inputs[0]"),
        (_body(tensor={"name": None}), "inputs[0].name"),
        (_body(tensor={"datatype": "BYTES"}), "inputs[0] (fids).datatype"),
        (_body(tensor={"datatype": ["INT64"]}), "inputs[0] (fids).datatype"),
        (_body(tensor={"shape": [2, -2]}), "inputs[0] (fids).shape"),
        (_body(tensor={"shape": [True, 4]}), "inputs[0] (fids).shape"),
        (_body(tensor={"shape": [2, 3]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": None}), "inputs[0] (fids).data"),
        (_body(tensor={"data": [1, 2, 3, 4.5]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": ["1", "2", "3", "4"]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": [True, False, True, True]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": [1, 2, 3, 2**63]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": [[1, 2], [3]]}), "inputs[0] (fids).data"),
        (_body(tensor={"data": [[1, 2, 3, 4]]}), "inputs[0] (fids).data"),
        (_body(tensor={"datatype": "FP32", "data": [1, 2, 3, None]}), "inputs[0] (fids).data"),
        (_body(tensor={"parameters": {"binary_data_size": 32}}), "inputs[0] (fids).data"),
        (_body(inputs=_body()["inputs"] * 2), "inputs[1].name"),
        (_body(outputs=[{}]), "outputs[0].name"),
        (_body(outputs={}), "outputs"),
        (_body(outputs=[{"name": "scores"}, {"name": "scores"}]), "outputs[1].name"),
        (_body(outputs=[{"name": "scores", "parameters": {"binary_data": 1}}]), "outputs[0].parameters.binary_data"),
        (
            _body(outputs=[{"name": "scores", "parameters": {"classification": 2}}]),
            "outputs[0].parameters.classification",
        ),
    ],
)
def test_a_malformed_field_is_named(document: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _parse(document)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("size", "tail", "field"),
    [
        (31, 31, "inputs[0] (fids).parameters.binary_data_size"),
        ("32", 32, "inputs[0] (fids).parameters.binary_data_size"),
        (32, 30, "inputs[0] (fids).parameters.binary_data_size"),
        (32, 33, "body"),
    ],
)
def test_binary_sizes_must_fit_shape_and_body(size: Any, tail: int, field: str) -> None:
    entry = {"name": "fids", "datatype": "INT64", "shape": [2, 2], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        parse_infer_request(text + bytes(tail), len(text))
    assert caught.value.field == field


@pytest.mark.parametrize("header", ["-1", "1.5", "", "101", "٣", "9" * 30])
def test_an_impossible_json_length_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length"):
        parse_json_length(header, 100)


def test_an_absent_json_length_means_all_is_json() -> None:
    assert parse_json_length(None, 100) is None
    assert parse_json_length("100", 100) == 100


def test_outputs_carry_their_form_and_an_empty_list_asks_for_all() -> None:
    document = _body(
        parameters={"binary_data_output": True},
        outputs=[{"name": "scores"}, {"name": "logits", "parameters": {"binary_data": False}}],
    )
    request = _parse(document)
    assert request.outputs == (("scores", True), ("logits", False))
    assert _parse(_body(outputs=[])).outputs is None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=32)),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_responses_are_read_back_by_the_reference_client(outputs: list[tuple[np.ndarray, bool]]) -> None:
    client = pytest.importorskip("tritonclient.http")
    finite = [(np.nan_to_num(array), binary) for array, binary in outputs]
    body, length = format_infer_response(
        model="films",
        version="3",
        request_id="r",
        outputs=[(f"o{index}", array, binary) for index, (array, binary) in enumerate(finite)],
        parameters={"logged": False},
    )
    assert (length is None) == (not any(binary for _, binary in finite))
    result = client.InferResult.from_response_body(body, header_length=length)
    for index, (array, _) in enumerate(finite):
        np.testing.assert_array_equal(result.as_numpy(f"o{index}"), array)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("films", "3", "r")
    assert response["parameters"] == {"logged": False}


def test_a_message_with_a_lone_surrogate_is_still_an_error_body() -> None:
    assert "error" in orjson.loads(format_error("bad \ud800"))


@pytest.mark.parametrize("data", [["x" * 200_000, *[0] * 999], [["x" * 200_000, 0], *[[0, 0]] * 499]])
def test_one_long_string_among_numbers_is_refused_in_the_memory_of_the_body(data: list[Any]) -> None:
    shape = [500, 2] if isinstance(data[0], list) else [len(data)]
    body = orjson.dumps({"inputs": [{"name": "fids", "datatype": "INT64", "shape": shape, "data": data}]})
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match="data"):
            parse_infer_request(body)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(body)  # the parser itself takes a dozen times the body
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([4], [[1, 2], [3, 4]]),
        ([2, 2], [[1, 2], 3, 4]),
        ([2, 2], [1, 2, [3, 4]]),
        ([], [[1]]),
        ([1] * 16, [[1]]),
        ([2, 2], [[[1], [2]], [[3], [4]]]),
        ([2, 2], [[1, True], [1, 1]]),
    ],
)
def test_data_is_flat_or_nested_as_the_shape_says(shape: list[int], data: list[Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _parse({"inputs": [{"name": "fids", "datatype": "INT64", "shape": shape, "data": data}]})
    assert caught.value.field == "inputs[0] (fids).data"


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [0, 1 << 63], [1 << 63, 0], [0, *[1 << 30] * 5]])
@pytest.mark.parametrize("size", [None, 0])
def test_a_shape_of_more_elements_than_there_can_be_is_refused_by_name(shape: list[int], size: int | None) -> None:
    tensor: dict[str, Any] = {"name": "fids", "datatype": "INT64", "shape": shape}
    tensor |= {"data": []} if size is None else {"parameters": {"binary_data_size": size}}
    document = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(InvalidRequestError, match="more than") as caught:
        parse_infer_request(document, len(document))
    assert caught.value.field == "inputs[0] (fids).shape"

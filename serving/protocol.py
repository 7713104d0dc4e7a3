"""Open Inference Protocol V2: bodies of ``infer`` requests and responses, as pure functions; no HTTP here.

JSON and the binary tensor extension, in both directions. Sources: KServe "Open Inference Protocol, HTTP/REST",
Triton "Binary tensor data extension".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from rillet.schemas.arrays import AnyArray
from rillet.serving.errors import InvalidRequestError

Array = AnyArray

#: The datatypes that inputs here can have.
DATATYPES: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_MAX_RANK = 16
#: of one tensor; a body of any size that a server would take has fewer
_MAX_ELEMENTS = 2**31
_MAX_ID_CHARACTERS = 512
_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed body. ``outputs`` holds (name, as binary); None means all outputs, in ``binary_default``."""

    id: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Array]
    outputs: tuple[tuple[str, bool], ...] | None
    binary_default: bool


def parse_json_length(header: str | None, body_bytes: int) -> int | None:
    """Value of the ``Inference-Header-Content-Length`` header, None when it is absent.

    :raises InvalidRequestError: not a decimal number in 0..body_bytes.
    """
    if header is None:
        return None
    # isdecimal alone accepts other scripts' digits; a long string would make int() slow.
    if not (header.isascii() and header.isdecimal() and len(header) < 20 and int(header) <= body_bytes):
        raise InvalidRequestError(
            "Inference-Header-Content-Length", f"{header[:40]!r} is not a length within a body of {body_bytes} bytes"
        )
    return int(header)


def parse_infer_request(body: bytes, json_length: int | None = None) -> InferRequest:
    """An ``infer`` request.

    >>> body = b'{"inputs": [{"name": "fids", "datatype": "INT64", "shape": [1, 2], "data": [7, 9]}]}'
    >>> parse_infer_request(body).inputs["fids"].tolist()
    [[7, 9]]

    :param json_length: bytes of JSON at the start of the body; the rest are binary tensors. None: all is JSON.
    :raises InvalidRequestError: with the field that is wrong. No other exception, whatever the bytes.
    """
    view = memoryview(body)
    json_length = len(body) if json_length is None else json_length
    try:
        document = orjson.loads(view[:json_length])
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError("body", f"not JSON: {error}") from error
    _expect("body", document, dict, "an object")
    request_id = document.get("id", "")
    if request_id is None:
        request_id = ""
    _expect("id", request_id, str, "a string")
    if len(request_id) > _MAX_ID_CHARACTERS:
        raise InvalidRequestError("id", f"{len(request_id)} characters, at most {_MAX_ID_CHARACTERS}")
    parameters = _parameters("parameters", document)
    binary_default = _flag("parameters.binary_data_output", parameters.get("binary_data_output", False))
    entries = document.get("inputs")
    _expect("inputs", entries, list, "an array of tensors")
    inputs: dict[str, Array] = {}
    binary = view[json_length:]
    for index, entry in enumerate(entries):
        name, array, taken = _input(f"inputs[{index}]", entry, binary)
        if name in inputs:
            raise InvalidRequestError(f"inputs[{index}].name", f"{name!r} occurs twice")
        inputs[name] = array
        binary = binary[taken:]
    if len(binary):
        raise InvalidRequestError("body", f"{len(binary)} bytes after the last binary tensor")
    return InferRequest(request_id, parameters, inputs, _outputs(document, binary_default), binary_default)


def format_infer_response(
    *,
    model: str,
    version: str,
    request_id: str,
    outputs: Sequence[tuple[str, Array, bool]],
    parameters: Mapping[str, Any] | None = None,
) -> tuple[bytes, int | None]:
    """An ``infer`` response: its body, and the bytes of JSON in it when binary tensors follow (None: all is JSON).

    :param outputs: (name, float32 or int64 array, as binary).
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array, as_binary in outputs:
        tensor: dict[str, Any] = {"name": name, "datatype": _NAMES[array.dtype], "shape": array.shape}
        if as_binary:
            blob = array.tobytes()
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        tensors.append(tensor)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "id": request_id, "outputs": tensors}
    if parameters:
        document["parameters"] = parameters
    text = orjson.dumps(document, option=_JSON_OPTIONS)
    if not blobs:
        return text, None
    return b"".join((text, *blobs)), len(text)


def format_error(message: str) -> bytes:
    """The body of every answer that is not a success."""
    # A message may quote a lone surrogate out of the request, which orjson does not write.
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def _input(path: str, entry: Any, binary: memoryview) -> tuple[str, Array, int]:
    """One input's name, array and the binary bytes that it took."""
    _expect(path, entry, dict, "an object")
    name = entry.get("name")
    _expect(f"{path}.name", name, str, "a string")
    path = f"{path} ({name[:40]})"
    datatype = entry.get("datatype")
    dtype = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise InvalidRequestError(f"{path}.datatype", f"{str(datatype)[:40]!r} is none of {', '.join(DATATYPES)}")
    shape = entry.get("shape")
    _expect(f"{path}.shape", shape, list, "an array of integers")
    if len(shape) > _MAX_RANK or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidRequestError(f"{path}.shape", f"expected at most {_MAX_RANK} integers that are not negative")
    # An axis of 0 makes none of the others smaller: NumPy refuses what they would need without it.
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidRequestError(f"{path}.shape", f"more than {_MAX_ELEMENTS} elements")
    elements = math.prod(shape)
    size = _parameters(f"{path}.parameters", entry).get("binary_data_size")
    if size is None:
        return name, _from_json(f"{path}.data", entry, dtype, shape, elements), 0
    if "data" in entry:
        raise InvalidRequestError(f"{path}.data", "given although binary_data_size is")
    if type(size) is not int or size != elements * dtype.itemsize:
        raise InvalidRequestError(
            f"{path}.parameters.binary_data_size",
            f"{str(size)[:40]}, but shape {shape} of {datatype} takes {elements * dtype.itemsize} bytes",
        )
    if size > len(binary):
        raise InvalidRequestError(
            f"{path}.parameters.binary_data_size", f"{size}, but only {len(binary)} bytes are left in the body"
        )
    # Copied: a tensor begins wherever the JSON ended, and unaligned arrays are slow.
    return name, np.frombuffer(binary[:size], dtype).copy().reshape(shape), size


def _from_json(path: str, entry: Mapping[str, Any], dtype: np.dtype[Any], shape: list[int], elements: int) -> Array:
    data: Any = entry.get("data")
    _expect(path, data, list, "an array of numbers")
    flat: list[Any] = data
    # The protocol allows the elements flat or nested as the shape says.
    if data and type(data[0]) is list:
        sizes = iter(shape)
        if len(data) != next(sizes, None):
            raise InvalidRequestError(path, f"has {len(data)} rows, the input's shape is {shape}")
        for size in sizes:
            if not all(type(row) is list and len(row) == size for row in flat):
                raise InvalidRequestError(path, f"is not nested as the input's shape {shape} says")
            flat = list(chain.from_iterable(flat))
    if len(flat) != elements:
        raise InvalidRequestError(path, f"has {len(flat)} elements, the input's shape is {shape}")
    # NumPy is shown plain numbers only: it makes one wide string of each element of a list that has a long string.
    if not set(map(type, flat)) <= ({int} if dtype.kind == "i" else {int, float}):
        raise InvalidRequestError(path, f"expected {'integers' if dtype.kind == 'i' else 'numbers'}")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses by name
            return np.array(flat, dtype).reshape(shape)
    except OverflowError as error:
        raise InvalidRequestError(path, "expected integers of 64 bits with a sign") from error


def _outputs(document: Mapping[str, Any], binary_default: bool) -> tuple[tuple[str, bool], ...] | None:
    entries = document.get("outputs")
    if entries is None:
        return None
    _expect("outputs", entries, list, "an array of objects")
    outputs: dict[str, bool] = {}
    for index, entry in enumerate(entries):
        path = f"outputs[{index}]"
        _expect(path, entry, dict, "an object")
        _expect(f"{path}.name", entry.get("name"), str, "a string")
        parameters = _parameters(f"{path}.parameters", entry)
        if parameters.get("classification"):
            raise InvalidRequestError(f"{path}.parameters.classification", "not offered here")
        as_binary = _flag(f"{path}.parameters.binary_data", parameters.get("binary_data", binary_default))
        # Each would be sent: a small request must not make a huge answer.
        if entry["name"] in outputs:
            raise InvalidRequestError(f"{path}.name", f"{entry['name'][:40]!r} occurs twice")
        outputs[entry["name"]] = as_binary
    # An empty list asks for nothing in particular, as an absent one does.
    return tuple(outputs.items()) or None


def _parameters(path: str, holder: Mapping[str, Any]) -> Mapping[str, Any]:
    value = holder.get("parameters")
    if value is None:
        return {}
    _expect(path, value, dict, "an object")
    parameters: Mapping[str, Any] = value
    return parameters


def _flag(path: str, value: Any) -> bool:
    _expect(path, value, bool, "true or false")
    return bool(value)


def _expect(path: str, value: Any, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        found = "nothing" if value is None else type(value).__name__
        raise InvalidRequestError(path, f"expected {expected}, found {found}")

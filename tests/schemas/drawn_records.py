"""Records of every type, drawn by the types of their fields."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rillet.schemas import CODECS, Record
from rillet.schemas.arrays import Float32s, Int32s, Int64s, UInt8s, UInt16s

_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    Int64s: npst.arrays(np.int64, st.integers(0, 8)),
    Int32s: npst.arrays(np.int32, st.integers(0, 8)),
    UInt16s: npst.arrays(np.uint16, st.integers(0, 8)),
    UInt8s: npst.arrays(np.uint8, st.integers(0, 8)),
    Float32s: npst.arrays(np.float32, st.integers(0, 8)),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    str: st.text(max_size=10),
    list[str]: st.lists(st.text(max_size=5), max_size=3),
    type(None): st.none(),
}


@st.composite
def records(draw: st.DrawFn) -> Record:
    record_type = draw(st.sampled_from(list(CODECS)))
    record: Record = draw(values_of(record_type))
    return record


@st.composite
def values_of(draw: st.DrawFn, record_type: type) -> Any:
    """A value of a record type, or of a type that a record has as a part, by the types of its fields."""
    values: dict[str, Any] = {}
    for name, arms in _arms(record_type).items():
        kind = draw(st.sampled_from(arms))
        values[name] = draw(values_of(kind) if is_dataclass(kind) else _BY_TYPE[kind])
        if kind is int and _avro_type(record_type, name) == "int":
            values[name] %= 2**31
    return record_type(**values)


@cache
def _arms(record_type: type) -> dict[str, tuple[Any, ...]]:
    """The types that each field of a record may have."""
    hints = {name: kind for name, kind in get_type_hints(record_type).items() if get_origin(kind) is not ClassVar}
    return {name: get_args(kind) if get_origin(kind) is UnionType else (kind,) for name, kind in hints.items()}


@cache
def _avro_type(record_type: type, name: str) -> Any:
    codec = CODECS.get(record_type)
    return {f["name"]: f["type"] for f in codec.schema["fields"]}[name] if codec else "long"

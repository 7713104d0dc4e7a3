"""Schemas with which a small record could exhaust the process are refused before a record is read."""

from __future__ import annotations

from typing import Any

import pytest

from rillet.sources.avro_schemas import UnsafeSchemaError, parse_schema
from tests.sources.avro_schemas import PAGE


def record(name: str, **types: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": of} for field, of in types.items()]}


def wide(depth: int) -> dict[str, Any]:
    """Two of the next at each level; each type is written out once."""
    return record(f"L{depth}", a=wide(depth - 1), b=f"L{depth - 1}") if depth else record("L0", a="null")


def deep(depth: int) -> Any:
    return {"type": "array", "items": deep(depth - 1)} if depth else "long"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (record("N", next=["null", "N"]), "next: N contains itself"),
        (record("N", m={"type": "map", "values": {"type": "array", "items": "N"}}), "m: N contains itself"),
        (record("A", b=record("B", a=["null", "A"])), "b.a: A contains itself"),
        ({**record("N", next=["null", "N"]), "namespace": "shop"}, r"next: shop\.N contains itself"),
        (record("R", a={"type": "array", "items": "null"}), "a: values of the array take no bytes"),
        (record("R", a={"type": "map", "values": record("E")}), "a: values of the map take no bytes"),
        (record("R", e=record("E", n="null"), a={"type": "array", "items": "E"}), "a: values of the array"),
        (
            record("R", a={"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
            "a: values of the array",
        ),
        ({"type": "array", "items": "null"}, "value: values of the array"),
        (record("R", a={"type": "array", "items": {"type": "null"}}), "a: values of the array"),
        (record("R", a=deep(40)), "a: types are nested more than 32 deep"),
        (wide(20), "the schema has more than 10000 types"),
    ],
)
def test_a_schema_that_lets_a_small_record_exhaust_the_process_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(UnsafeSchemaError, match=message):
        parse_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        PAGE,
        record("R", a={"type": "array", "items": ["null", "string"]}, b="null", c={"type": "map", "values": "long"}),
        record("R", a=record("P", x="long"), b={"type": "array", "items": "P"}, c=["null", "P"]),
        record("R", at={"type": "long", "logicalType": "timestamp-millis"}),
        ["null", record("R", a="string")],
        "string",
    ],
)
def test_schemas_as_they_are_used_are_taken(schema: Any) -> None:
    parse_schema(schema)

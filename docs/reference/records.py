"""The fields of the Avro records, out of their schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docs.reference.vectors import SPEC_FILE

from rillet.connectors.parquet import row_schema
from rillet.schemas import CODECS, load_spec


def _schemas(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A record's schema, and those of the records in it."""
    yield schema
    for field in schema["fields"]:
        if isinstance(field["type"], dict) and field["type"]["type"] == "record":
            yield from _schemas(field["type"])


SCHEMAS = {one["name"].split(".")[-1]: one for codec in CODECS.values() for one in _schemas(codec.schema)}
NAMES = tuple(SCHEMAS)


def table(name: str) -> str:
    """The fields of a record as Markdown, in the order in which they are encoded."""
    schema = SCHEMAS[name]
    rows = [f"| `{field['name']}` | {_type(field['type'])} | {_meaning(name, field)} |" for field in schema["fields"]]
    return "\n".join([schema["doc"], "", "| field | Avro type | meaning |", "|---|---|---|", *rows])


#: columns of the Parquet files, in which an ExampleBlock's flat columns are lists per row
_PARQUET = {
    "number": "the row's place in the set, from 0",
    "partition": "of the examples topic; 0 where the rows are of a recording",
    "offset": "of the record that it was in",
    "row": "its place in that record",
    "request_id": "of the request",
    "impression_id": "as in the feature event",
    "fids": "values of all slots, context slots first",
    "lengths": "how many values each slot has; only where a slot is ragged",
    "dense": "the dense features",
    "labels": "0 or 1 per task",
    "mask": "1 for the task that the row teaches",
    "sampling_rate": "the rate at which negatives like this row are kept",
    "label_kind": "as in ExampleBlock",
    "feature_time_ms": "event time of the feature event",
    "action_time_ms": "event time of the action, -1 where there is none",
    "feature_ingest_ms": "ingest_ms of the feature event, -1 where unknown",
    "action_ingest_ms": "ingest_ms of the action, -1 where there is none or it is unknown",
    "served_logits": "per task; NaN where not served",
}


def parquet() -> str:
    """The columns of the Parquet files."""
    schema = row_schema(load_spec(SPEC_FILE))
    rows = [f"| `{field.name}` | {_arrow_type(field.type)} | {_PARQUET[field.name]} |" for field in schema]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])


def _arrow_type(kind: Any) -> str:
    return f"list of {kind.value_type}" if hasattr(kind, "value_type") else str(kind)


def fingerprints() -> str:
    """The ten bytes that each record begins with."""
    rows = [
        f"| `{record_type.__name__}` | `schemas/avsc/{_file(record_type)}.avsc` | `{codec.header.hex()}` |"
        for record_type, codec in CODECS.items()
    ]
    return "\n".join(["| record | schema | first ten bytes |", "|---|---|---|", *rows])


def _file(record_type: type) -> str:
    name = record_type.__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _type(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_type(one) for one in kind)
    if isinstance(kind, dict):
        items = f" of {_type(kind['items'])}" if kind["type"] == "array" else ""
        return f"{kind['type']}{items}"
    return str(kind)


def _meaning(record: str, field: Mapping[str, Any]) -> str:
    """:raises ValueError: the schema does not say."""
    if not field.get("doc"):
        raise ValueError(f"{record}.{field['name']}: has no doc in its schema, which is its meaning in docs/wire.md")
    default = f"; default {json.dumps(field['default'])}" if field.get("default") is not None else ""
    return f"{field['doc']}{default}"

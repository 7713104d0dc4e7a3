"""Avro schemas of topics: which of them records can be read with, whatever bytes a record has.

fastavro's reader follows a schema without a limit of its own: with a recursive schema some kilobytes overflow the stack
of the process, and five bytes are an array of a billion values that take no bytes each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fastavro

#: a schema as fastavro has parsed it
Schema = Any

_MAX_DEPTH = 32
#: types inside a schema, those of a name as often as the name stands there: a record without bytes may name others
#: twice, and these others again
_MAX_TYPES = 10_000


class UnsafeSchemaError(ValueError):
    """An Avro schema with which a small record could exhaust the process."""


def parse_schema(document: Any, named: dict[str, Any] | None = None) -> Schema:
    """A schema as fastavro reads records with it.

    :param document: as decoded from JSON.
    :param named: types by full name that it may refer to; its own are added.
    :raises UnsafeSchemaError: recursive, too large, or with arrays or maps whose values take no bytes.
    :raises Exception: of a document that is no schema fastavro raises whatever it stumbles on.
    """
    named = {} if named is None else named
    schema = fastavro.parse_schema(document, named)
    _Check(named).least_bytes(schema, "", ())
    return schema


class _Check:
    """Goes through a schema once."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._types = 0

    def least_bytes(self, schema: Any, path: str, inside: tuple[str, ...]) -> int:
        """The fewest bytes that a value of the type takes.

        :param inside: names of the types around it, "" of one without a name.
        :raises UnsafeSchemaError: see :func:`parse_schema`.
        """
        self._types += 1
        if len(inside) > _MAX_DEPTH:
            raise UnsafeSchemaError(f"{path}: types are nested more than {_MAX_DEPTH} deep")
        if self._types > _MAX_TYPES:
            raise UnsafeSchemaError(f"{path}: the schema has more than {_MAX_TYPES} types")
        if isinstance(schema, str) and schema in self._named:
            schema = self._named[schema]
        if isinstance(schema, list):
            for branch in schema:
                self.least_bytes(branch, path, (*inside, ""))
            return 1
        if not isinstance(schema, dict):
            return 0 if schema == "null" else 1
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema, path, inside)
        if kind == "fixed":
            return int(schema["size"])
        if kind in ("array", "map"):
            of = schema["items" if kind == "array" else "values"]
            if not self.least_bytes(of, path, (*inside, "")):
                raise UnsafeSchemaError(
                    f"{path or 'value'}: values of the {kind} take no bytes, so any number fits into few"
                )
            return 1
        return 1 if kind == "enum" else self.least_bytes(kind, path, (*inside, ""))

    def _record(self, schema: Mapping[str, Any], path: str, inside: tuple[str, ...]) -> int:
        name = schema["name"]
        if name in inside:
            raise UnsafeSchemaError(f"{path}: {name} contains itself; a schema must not be recursive")
        fields = schema["fields"]
        return sum(
            self.least_bytes(field["type"], f"{path}.{field['name']}".strip("."), (*inside, name)) for field in fields
        )

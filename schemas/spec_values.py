"""Values of the feature spec's file: read with their paths, and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rillet.schemas.errors import SpecError


def toml(value: Any) -> str:
    """Text, whole numbers, and sequences of them. JSON's form, but for what TOML takes as it is, or does not."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def typed(path: str, value: Any, kind: type) -> Any:
    """The value, where it is of a kind; an integer is a float, too.

    :raises SpecError: it is none.
    """
    accepted: Any = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise SpecError(f"{path}: expected {kind.__name__}, found {'nothing' if value is None else repr(value)}")
    return float(value) if kind is float else value


def checked_table(path: str, table: Any, kinds: Mapping[str, type], optional: Iterable[str] = ()) -> dict[str, Any]:
    """The values of a table, each of its kind; an optional key that is not there is left out.

    :param kinds: by key, all that there may be.
    :raises SpecError: with the path of the wrong or missing key.
    """
    if not isinstance(table, dict):
        raise SpecError(f"{path}: expected a table")
    for key in table:
        if key not in kinds:
            raise SpecError(f"{path}.{key}: unknown key; known are {', '.join(kinds)}")
    return {
        key: typed(f"{path}.{key}", table.get(key), kind)
        for key, kind in kinds.items()
        if key in table or key not in optional
    }

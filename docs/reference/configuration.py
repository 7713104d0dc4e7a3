"""The keys of rillet.toml out of the dataclasses that it is read into: their ``#:`` comments, defaults and checks."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rillet.jobs.config import RilletConfig

_UNITS = {"ms": "ms", "s": "s", "bytes": "bytes", "rows": "rows"}
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", NoneType: "nothing"}
#: how the checks say that a value is out of range, and how a table says what is in it
_BOUNDS = (
    (r" is not in (.+)$", r"\1"),
    (r" is not (a power of two) in (.+)$", r"\1, \2"),
    (r" is not above (\d+)$", r"above \1"),
    (r" is not below (\d+)$", r"below \1"),
    (r" is below (\d+)$", r"\1 or more"),
    (r" is above (\d+)$", r"at most \1"),
)
#: more than any upper bound
_LARGE = 1 << 62


def tables(root: type = RilletConfig) -> str:
    """All tables of keys as Markdown, in the order of the configuration."""
    return "\n\n".join(_table(path, kind) for path, kind in _dataclasses("", root))


def _dataclasses(path: str, kind: type) -> Iterator[tuple[str, type]]:
    yield path, kind
    hints = get_type_hints(kind)
    for one in fields(kind):
        inner = _dataclass_of(hints[one.name])
        if inner is not None:
            yield from _dataclasses(f"{path}.{one.name}" if path else one.name, inner)


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass that a field of this type is a table of."""
    found = [one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)]
    return found[0] if found and get_origin(hint) is not dict else None


def _table(path: str, kind: type) -> str:
    hints, meanings = get_type_hints(kind), comments(kind)
    rows = [
        f"| `{one.name}` | {_type(one.name, hints[one.name])} | {_default(one)} | {_range(kind, one, hints[one.name])} "
        f"| {_meaning(path, one.name, meanings)} |"
        for one in fields(kind)
        if _dataclass_of(hints[one.name]) is None
    ]
    title = f"## `[{path}]`" if path else "## At the top"
    head = [title, "", " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].replace("``", "`").split())]
    if rows:
        head += ["", "| key | type | default | range | meaning |", "|---|---|---|---|---|", *rows]
    return "\n".join(head)


def _meaning(path: str, name: str, meanings: dict[str, str]) -> str:
    """:raises ValueError: the field has no comment."""
    if name not in meanings:
        raise ValueError(f"[{path}] {name}: has no `#:` comment, which is its meaning in docs/configuration.md")
    return meanings[name].replace("``", "`").replace("|", "\\|")


def comments(kind: type) -> dict[str, str]:
    """Field -> the ``#:`` comment above it, on one line; also of those that it has of another dataclass."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    (body,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for base in filter(is_dataclass, kind.__bases__):
        found |= comments(base)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            at, text = node.lineno - 2, []
            while lines[at].strip().startswith("#:"):
                text.insert(0, lines[at].strip()[2:].strip())
                at -= 1
            if text:
                found[node.target.id] = " ".join(text)
    return found


def _type(name: str, hint: Any) -> str:
    unit = _UNITS.get(name.rpartition("_")[2])
    return _type_name(hint) + (f", {unit}" if unit and hint in (int, float) else "")


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in get_args(hint))
    if get_origin(hint) in (tuple, list):
        items = _type_name(get_args(hint)[0])
        return f"list of {items if items == 'text' else items + 's'}"
    if get_origin(hint) is dict:
        return "table"
    if hint in _NAMES:
        return _NAMES[hint]
    return " or ".join(_type_name(one) for one in get_args(hint) if one is not NoneType) or "table"


def _default(one: Field[Any]) -> str:
    value = one.default if one.default_factory is MISSING else one.default_factory()
    if value is MISSING:
        return "needed"
    if value is None or value in ({}, ()):
        return "none"
    if isinstance(value, bool | str | Path):
        return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f"`{json.dumps(value)}`"


def _range(kind: type, one: Field[Any], hint: Any) -> str:
    """What the checks of the dataclass say of numbers outside of it."""
    if hint not in (int, float) or one.default is MISSING:
        return ""
    bounds = []
    for value in (hint(-1), hint(0), hint(1), hint(3), hint(_LARGE)):
        said = _refusal(kind, one.name, value)
        bounds += [
            text for pattern, text in _BOUNDS if (match := re.search(pattern, said)) for text in [match.expand(text)]
        ]
    if "above 0" in bounds:
        bounds = [bound for bound in bounds if bound != "0 or more"]
    return ", ".join(dict.fromkeys(bounds))


def _refusal(kind: type, name: str, value: Any) -> str:
    """The message of the check that refuses the value, if it is one about this field."""
    needed = {one.name: "x" for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    try:
        kind(**(needed | {name: value}))
    except ValueError as error:
        # A product with another key that is out of range says nothing of this key alone.
        return str(error) if str(error).startswith(f"{name}:") and " times " not in str(error) else ""
    return ""

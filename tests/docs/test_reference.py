"""What is generated of the documents is of the present code, and leaves nothing out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from docs.reference import configuration, pages

from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.jobs.config import RilletConfig
from rillet.schemas import DeadLetter, encode_dead_letter
from rillet.schemas.ranges import check_above_zero, check_at_most

GENERATED = [pages.VECTORS, pages.TIMELINE, *(pages.DOCS / name for name in pages.SECTIONS)]


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return pages.generated()


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_documents_are_of_this_code(path: Path, generated: dict[Path, str]) -> None:
    stale = path.read_text("utf-8") != generated[path]
    assert not stale, f"docs/{path.name} is not what the code says: run `make docs`"


def _keys(kind: type, path: str = "") -> list[str]:
    found = []
    for one in fields(kind):
        hint = get_type_hints(kind)[one.name]
        inner = f"{path}.{one.name}" if path else one.name
        found += _keys(hint, inner) if is_dataclass(hint) and isinstance(hint, type) else [inner]
    return found


def test_every_key_of_the_configuration_is_in_its_reference(generated: dict[Path, str]) -> None:
    text = generated[pages.DOCS / "configuration.md"]
    for key in _keys(RilletConfig):
        table, _, name = key.rpartition(".")
        section = text.split(f"## `[{table}]`" if table else "## At the top")[1].split("\n## ")[0]
        assert f"| `{name}` |" in section, key


@dataclass(frozen=True)
class _Settings:
    """Settings of a test."""

    #: how many
    #: there are
    count: int = 3
    #: how long
    wait_ms: int = 10_000
    #: one or the other
    names: tuple[str, ...] = ("a",)

    def __post_init__(self) -> None:
        check_above_zero(self, "count")
        check_at_most(self, 9, "count")


@dataclass(frozen=True)
class _Outer:
    """All."""

    #: where
    host: str = "h"
    settings: _Settings = field(default_factory=_Settings)


def test_a_table_has_type_unit_default_range_and_the_comment_as_meaning() -> None:
    text = configuration.tables(_Outer)
    assert '| `host` | text | `"h"` |  | where |' in text
    assert "## `[settings]`\n\nSettings of a test.\n" in text
    assert "| `count` | integer | `3` | above 0, at most 9 | how many there are |" in text
    assert "| `wait_ms` | integer, ms | `10_000` |  | how long |" in text
    assert '| `names` | list of text | `["a"]` |  | one or the other |' in text


@dataclass(frozen=True)
class _Unexplained:
    """All."""

    host: str = "h"


def test_a_key_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="host: has no `#:` comment"):
        configuration.tables(_Unexplained)


def test_a_page_without_one_of_its_sections_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['a'\], expected \['a', 'b'\]"):
        pages.with_sections("<!-- begin a -->\n<!-- end -->", {"a": lambda: "", "b": lambda: ""})


def test_the_wire_page_names_every_key_of_a_dead_letter_and_the_largest_record() -> None:
    text = (pages.DOCS / "wire.md").read_text("utf-8")
    letter = DeadLetter("reason", "topic", 0, 0, b"", b"", 0, 0)
    for key in json.loads(encode_dead_letter(letter)):
        assert f"`{key}`" in text
    assert f"at most {RECORD_MAX_BYTES:,} bytes" in text

"""The page on the feature spec names every key with its default, and shows a spec that can be read."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest

from rillet.schemas import DenseFeature, FeatureSpec, History, Slot, SpecError, Task, parse_spec
from rillet.schemas.negative_rates import RateByScore, RateBySlot
from rillet.schemas.slots import SlotKind
from rillet.schemas.spec import LabelMode, LatePolicy, Transform

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "feature-spec.md").read_text("utf-8")
EXAMPLE = re.findall(r"```toml\n(.*?)```", TEXT, re.S)[0]
TASK = '[[tasks]]\nname = "x"\naction = "x"\nwindow_ms = 1\n'
#: heading of the page -> header of a table with an unknown key
TABLES = {
    "`[spec]`": "[spec]",
    "`[[context]]` and `[[item]]`": '[[context]]\nkind = "id"',
    "Kind `history`, of the context only": '[[context]]\nkind = "history"',
    "`[[dense]]`": "[[dense]]",
    "`[[cross]]`": "[[cross]]",
    "`[[tasks]]`": "[[tasks]]",
    "`[tasks.rate_by_slot]`": f"{TASK}[tasks.rate_by_slot]",
    "`[tasks.rate_by_score]`": f"{TASK}[tasks.rate_by_score]",
}


def _known_keys(table: str) -> list[str]:
    """What the parser says that it knows, when it meets another key."""
    if table != "[spec]":
        table = f"{EXAMPLE}\n{table}"
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{table}\nno_such_key = 1\n")
    return str(caught.value).split("known are ")[1].split(", ")


def _rows(heading: str) -> dict[str, str]:
    """Key -> default, of the first table below a heading."""
    (section,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M)
    rows = {}
    for names, default in re.findall(r"^\| (`.*?`) \| (.*?) \|", section.split("\n\n| `")[0], re.M):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    return rows


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_on_the_page_and_no_other(heading: str) -> None:
    assert sorted(_rows(heading)) == sorted(_known_keys(TABLES[heading]))


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`[spec]`", FeatureSpec),
        ("`[[context]]` and `[[item]]`", Slot),
        ("Kind `history`, of the context only", History),
        ("`[[dense]]`", DenseFeature),
        ("`[[tasks]]`", Task),
        ("`[tasks.rate_by_slot]`", RateBySlot),
        ("`[tasks.rate_by_score]`", RateByScore),
    ],
)
def test_defaults_are_those_of_the_code(heading: str, kind: type) -> None:
    found = _rows(heading)
    for one in fields(kind):
        if one.name in found:
            default = one.default
            shown = "needed" if default is MISSING else "none" if default in ((), None) else f"`{json.dumps(default)}`"
            assert found[one.name] == shown, one.name


def test_kinds_label_modes_and_policies_are_all_there() -> None:
    for choice in (*get_args(SlotKind), *get_args(Transform), *get_args(LabelMode)):
        assert f"| `{choice}` |" in TEXT
    for choice in get_args(LatePolicy):
        assert f'`"{choice}"`' in TEXT


def test_the_example_uses_every_key() -> None:
    spec = parse_spec(EXAMPLE)
    assert (len(spec.context), len(spec.item), spec.dense, len(spec.crosses), len(spec.tasks)) == (
        2,
        3,
        (DenseFeature("price", "log1p"),),
        1,
        2,
    )
    for table in TABLES.values():
        for key in _known_keys(table):
            assert re.search(rf"^({key} = |\[tasks\.{key}\])", EXAMPLE, re.M), key

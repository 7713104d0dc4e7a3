"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "rillet"


def _modules_with_examples() -> list[str]:
    """Names of our modules whose text has an example; the others are not imported for it."""
    names = []
    # The rooms are links, which a search by pattern does not follow.
    for room in sorted(path for path in SOURCE.iterdir() if path.is_dir()):
        for path in sorted(room.resolve().rglob("*.py")):
            if ">>> " in path.read_text("utf-8"):
                parts = (room.name, *path.relative_to(room.resolve()).with_suffix("").parts)
                names.append(".".join(("rillet", *parts)).removesuffix(".__init__"))
    return names


MODULES = _modules_with_examples()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0, f"{name}: its examples stand where doctest does not look, such as in a comment"
    assert outcome.failed == 0, "the report is in the captured output"


def test_examples_are_looked_for_in_every_room() -> None:
    rooms = {name.split(".")[1] for name in MODULES}
    assert {"schemas", "serving", "trainer"} <= rooms

"""Fenced blocks of the documents, and the commands in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: the README, and every page below docs and examples
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of one language, without their indentation."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", path.read_text("utf-8"), re.S | re.M)
    return [textwrap.dedent(block) for block in found]


def commands(path: Path) -> list[str]:
    """Every command of the bash blocks; one may have several lines."""
    found: list[str] = []
    for block in blocks(path, "bash"):
        waiting = ""
        for line in block.splitlines():
            waiting = f"{waiting}\n{line}" if waiting else line
            if waiting.count("'") % 2 == 0 and not waiting.endswith("\\"):
                found += [waiting.strip()] if waiting.strip() and not waiting.lstrip().startswith("#") else []
                waiting = ""
        assert not waiting, f"{path.name}: a command does not end: {waiting}"
    return found

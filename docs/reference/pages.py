"""Which files are generated, whole or in part, and out of what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from docs.reference import configuration, metrics, records, timeline, vectors

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

#: page -> name of a section -> what makes it
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "configuration.md": {"keys": configuration.tables},
    "operations/metrics.md": {"joiner metrics": metrics.joiner},
    "wire.md": {
        **{f"record {name}": (lambda name=name: records.table(name)) for name in records.NAMES},
        "fingerprints": records.fingerprints,
        "parquet": records.parquet,
        **{f"vectors {name}": (lambda name=name: vectors.section(name)) for name in vectors.SECTIONS},
    },
}
VECTORS = DOCS / "vectors.json"
TIMELINE = DOCS / "figures" / "label-modes.svg"


def generated() -> dict[Path, str]:
    """The files that are generated, with the text that they should have.

    :raises ValueError: a page lacks a section, or has one that nothing makes.
    """
    return {VECTORS: vectors.as_json(), TIMELINE: timeline.svg()} | {
        DOCS / name: with_sections((DOCS / name).read_text("utf-8"), sections) for name, sections in SECTIONS.items()
    }


def with_sections(text: str, sections: dict[str, Callable[[], str]]) -> str:
    """The page with its sections, which stand between ``<!-- begin NAME -->`` and ``<!-- end -->``, made anew."""
    found = re.findall(r"<!-- begin (.*?) -->", text)
    if sorted(found) != sorted(sections):
        raise ValueError(f"sections of the page: {sorted(found)}, expected {sorted(sections)}")

    def made(match: re.Match[str]) -> str:
        return f"<!-- begin {match[1]} -->\n{sections[match[1]]().strip()}\n<!-- end -->"

    return re.sub(r"<!-- begin (.*?) -->\n.*?<!-- end -->", made, text, flags=re.S)

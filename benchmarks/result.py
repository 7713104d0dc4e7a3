"""The file that every benchmark and experiment writes: figures by subject, and ratios of what ran in the same call."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: what was measured, by which metric, in which unit."""

    subject: str
    metric: str
    value: float
    unit: str

    def line(self, width: int = 0) -> str:
        """The figure as text, its subject in ``width`` characters or more."""
        return f"{self.subject:{width}}  {self.metric:8}{self.value:14,.4g} {self.unit}"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What one call of a benchmark found.

    :param versions: of the libraries that were measured; Python's own is added.
    :param ratios: only of figures of this very call.
    """

    bench: str
    figures: Sequence[Figure]
    ratios: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table of the figures, then the ratios."""
        width = max((len(figure.subject) for figure in self.figures), default=0)
        found = [figure.line(width) for figure in self.figures]
        return found + [f"{name:{width}}  {value:22,.4g}" for name, value in self.ratios.items()]

    def write(self, path: Path) -> None:
        """Writes it as JSON.

        :raises OSError: the file cannot be written.
        """
        content = {
            "bench": self.bench,
            "versions": {"python": platform.python_version(), **self.versions},
            "cores": os.cpu_count(),
            "results": [asdict(figure) | {"value": _finite(figure.value)} for figure in self.figures],
            "ratios": {name: _finite(value) for name, value in self.ratios.items()},
        }
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _finite(value: float) -> float | None:
    # JSON has no NaN and no infinity.
    return value if math.isfinite(value) else None

"""What a contestant is: something that reads the two raw topics in a process of its own and writes examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rillet.benchmarks.join.shapes import Shape
from rillet.connectors.topic_reader import TopicRecord


@dataclass(frozen=True, slots=True)
class Run:
    """What one run reads and writes.

    :param examples: a topic of its own, empty.
    :param folder: of its own, for state and configuration; empty.
    """

    servers: str
    features: str
    actions: str
    examples: str
    folder: Path
    parallelism: int = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that reads both topics up to their present ends, and then ends by itself.

    :param cwd: where to run it; None for where we are.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None


class Contestant(Protocol):
    """One way to join the topics."""

    @property
    def name(self) -> str:
        """By which it is called on the command line and in the file of figures."""

    @property
    def what(self) -> str:
        """What it is, in a few words."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of recordings that it can read."""

    def prepare(self, data: Path) -> None:
        """Installs what it needs; does nothing where that is there already.

        :param data: the folder of ``--data``.
        :raises RilletError: it cannot be installed.
        """

    def launch(self, run: Run) -> Launch:
        """How to start it; writes what it needs into the run's folder."""

    def rows(self, record: TopicRecord) -> tuple[int, int] | None:
        """Positives and negatives in a record that it has written; None where it joins nothing."""

    def versions(self) -> Mapping[str, str]:
        """Of the libraries that are measured."""

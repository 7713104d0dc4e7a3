"""Rows as they travel to a peer, and the loop that a peer's process runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .frames import Arrays, read_frame, write_frame

#: of a feature id; the upper bits are the number of its slot
VALUE_MASK = (1 << 48) - 1

#: of Vowpal Wabbit: one letter per slot
_MAX_NAMESPACES = 26


def namespace(slot: int) -> str:
    """What Vowpal Wabbit's lines call the slot at an index.

    :raises ValueError: there are no letters left.
    """
    if slot >= _MAX_NAMESPACES:
        raise ValueError(f"slot {slot + 1}: Vowpal Wabbit's lines have letters for {_MAX_NAMESPACES}")
    return chr(ord("a") + slot)


class PeerModel(Protocol):
    """A learner of one binary label. Calls come in the order of event time.

    What it is given was made by :meth:`prepare`, whose time is told apart: writing a row in the library's form is what its
    users do for every row, but it is not the library's own work.
    """

    def prepare(self, rows: Rows) -> list[object]:
        """The rows in the library's own form."""

    def learn(self, rows: list[object], labels: list[int], weights: list[float]) -> None:
        """Takes one row after the other; labels are 0 or 1."""

    def score(self, rows: list[object]) -> list[float]:
        """A score per row that grows with the probability of label 1."""


class Rows:
    """n rows of S slots. ``of(slot)`` gives the values of each row, for any form that a library wants."""

    def __init__(self, arrays: Arrays, slots: int, dense: int) -> None:
        self._values = (arrays["fids"] & VALUE_MASK).tolist()
        lengths: npt.NDArray[np.int64] = arrays["lengths"].astype(np.int64)
        self._ends = np.cumsum(lengths).tolist()
        self._slots = slots
        self._dense = arrays["dense"].reshape(len(lengths) // slots, dense).tolist()

    def __len__(self) -> int:
        return len(self._ends) // self._slots

    def __iter__(self) -> Iterator[tuple[list[list[int]], list[float]]]:
        """Values of each slot, and dense features, row after row."""
        ends, values, slots = self._ends, self._values, self._slots
        begin = 0
        for row in range(len(self)):
            found = []
            for end in ends[row * slots : (row + 1) * slots]:
                found.append(values[begin:end])
                begin = end
            yield found, self._dense[row]


def serve(model: PeerModel, slots: int, dense: int) -> None:
    """Answers frames on standard output until standard input ends.

    ``learn`` frames have no answer; ``score`` gives ``scores``; ``figures`` gives the CPU seconds spent on preparing rows and
    inside the library. What the pipe costs is in neither.
    """
    prepare_s = library_s = 0.0
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while (frame := read_frame(stdin)) is not None:
        kind, _, arrays = frame
        if kind == "figures":
            write_frame(stdout, kind, {}, prepare_s=prepare_s, library_s=library_s)
            continue
        rows = Rows(arrays, slots, dense)
        begin_s = time.process_time()
        prepared = model.prepare(rows)
        prepared_s = time.process_time()
        if kind == "learn":
            model.learn(prepared, arrays["labels"].tolist(), arrays["weights"].tolist())
        else:
            scores = model.score(prepared)
        prepare_s += prepared_s - begin_s
        library_s += time.process_time() - prepared_s
        if kind == "score":
            write_frame(stdout, "scores", {"scores": np.array(scores, np.float32)})

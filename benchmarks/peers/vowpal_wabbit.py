"""Vowpal Wabbit: ``python -m peers.vowpal_wabbit SLOTS DENSE OPTIONS``, with one namespace per slot: a, b, c ...

Rows are its text lines, as its users write them; values are hashed with their namespace.
"""

from __future__ import annotations

import sys

from vowpalwabbit import Workspace

from .rows import PeerModel, Rows, namespace, serve

#: namespace of dense features; slots have the small letters
DENSE = "N"


class VowpalWabbit(PeerModel):
    """A workspace with logistic loss."""

    def __init__(self, options: str) -> None:
        self._workspace = Workspace(f"--quiet --loss_function logistic --link identity {options}")

    def prepare(self, rows: Rows) -> list[object]:
        """See :class:`PeerModel`."""
        lines: list[object] = []
        for slots, dense in rows:
            parts = [f"|{namespace(at)} {' '.join(map(str, values))}" for at, values in enumerate(slots)]
            if dense:
                parts.append(f"|{DENSE} {' '.join(f'{at}:{value:.6g}' for at, value in enumerate(dense))}")
            lines.append(" ".join(parts))
        return lines

    def learn(self, rows: list[object], labels: list[int], weights: list[float]) -> None:
        """See :class:`PeerModel`."""
        learn = self._workspace.learn
        for line, label, weight in zip(rows, labels, weights, strict=True):
            learn(f"{1 if label else -1} {weight:.6g} {line}")

    def score(self, rows: list[object]) -> list[float]:
        """See :class:`PeerModel`."""
        predict = self._workspace.predict
        return [predict(line) for line in rows]


if __name__ == "__main__":
    serve(VowpalWabbit(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))

"""River: ``python -m peers.river SLOTS DENSE OPTIONS``, where options are JSON.

``{"optimizer": "ftrl" | "sgd" | "adagrad" | "adam", "lr": 0.1, "crosses": [[5, 6]], "l2": 0.0}``: logistic regression on
one-hot features; crosses are pairs of slots by index, of all pairs of their values. River has no crosses of sparse
features of its own, so they are made here, outside the measured time.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from math import log
from typing import Any

from river import linear_model, optim

from .rows import PeerModel, Rows, serve

_LOWEST = 1e-9


class River(PeerModel):
    """Logistic regression, learned one row at a time."""

    def __init__(self, options: dict[str, Any]) -> None:
        lr = options.get("lr", 0.1)
        makers = {
            "ftrl": lambda: optim.FTRLProximal(alpha=lr, beta=1.0, l1=0.0, l2=options.get("l2", 0.0)),
            "sgd": lambda: optim.SGD(lr),
            "adagrad": lambda: optim.AdaGrad(lr),
            "adam": lambda: optim.Adam(lr),
        }
        self._crosses = [tuple(pair) for pair in options.get("crosses", [])]
        self._model = linear_model.LogisticRegression(
            optimizer=makers[options.get("optimizer", "sgd")](), l2=0.0, intercept_lr=0.02
        )

    def prepare(self, rows: Rows) -> list[object]:
        """See :class:`PeerModel`."""
        found: list[object] = []
        for slots, dense in rows:
            features: dict[object, float] = {(at, value): 1.0 for at, values in enumerate(slots) for value in values}
            for left, right in self._crosses:
                features |= {(left, right, *pair): 1.0 for pair in product(slots[left], slots[right])}
            features |= dict(enumerate(dense))
            found.append(features)
        return found

    def learn(self, rows: list[Any], labels: list[int], weights: list[float]) -> None:
        """See :class:`PeerModel`."""
        learn = self._model.learn_one
        for features, label, weight in zip(rows, labels, weights, strict=True):
            learn(features, bool(label), weight)

    def score(self, rows: list[Any]) -> list[float]:
        """See :class:`PeerModel`."""
        predict = self._model.predict_proba_one
        scores = []
        for features in rows:
            p = min(max(predict(features)[True], _LOWEST), 1 - _LOWEST)
            scores.append(log(p / (1 - p)))
        return scores


if __name__ == "__main__":
    serve(River(json.loads(sys.argv[3])), int(sys.argv[1]), int(sys.argv[2]))

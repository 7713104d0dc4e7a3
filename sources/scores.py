"""What the impressions of a page were ranked by, where another system did it: scores of the record as served logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from rillet.schemas import RecordError, SpecRegistry
from rillet.schemas.arrays import Float32s
from rillet.sources.config import FeatureSource, ScoreKind
from rillet.sources.errors import SourceError
from rillet.sources.paths import Path, shown

#: probabilities are taken for ones within this of 0 and 1, whose logits are infinite
_NEAREST = 1e-7
#: a logit further from 0 is none: float32 tells no probability from 0 and 1 long before
_MAX_LOGIT = 1e4


class ScoreReader:
    """Finds the scores of candidates, by the tasks of a feature spec."""

    def __init__(self, specs: SpecRegistry, source: FeatureSource) -> None:
        """:raises SourceError: a score is of a task that none of the specs has."""
        tasks = [task.name for task in specs.current.tasks]
        others = {task.name for spec in specs.others for task in spec.tasks}
        for name in source.scores:
            if name not in tasks and name not in others:
                raise SourceError(
                    f"sources.features.scores.{name}: feature spec {specs.current.name} has no task of this name; it has"
                    f" {', '.join(tasks)}"
                )
        self._tasks = len(tasks)
        self._kind = source.score_kind
        self._paths = [(tasks.index(name), name, Path(path)) for name, path in source.scores.items() if name in tasks]

    def read(self, items: Sequence[Any], prefix: str) -> dict[str, list[Any]]:
        """Task to N scores as found, None where an item has none.

        :param prefix: path of the list.
        """
        return {name: path.column(items, prefix) for _, name, path in self._paths}

    def logits(self, scores: dict[str, list[Any]], place: Callable[[int, str], str]) -> Float32s | None:
        """Logits float32[N x T], row after row, NaN where there is no score; None where there is none at all.

        :param place: path of what lies at a path in the item of this number.
        :raises RecordError: a score that is none; with its path.
        """
        found = [values for values in scores.values() if any(value is not None for value in values)]
        if not found:
            return None
        logits = np.full((len(found[0]), self._tasks), np.nan)
        for task, name, path in self._paths:
            for row, value in enumerate(scores[name]):
                if value is None:
                    continue
                try:
                    logits[row, task] = logit_of(value, self._kind)
                except ValueError as error:
                    raise RecordError(f"{place(row, path.text)}: {error}") from None
        return logits.astype(np.float32).reshape(-1)


def logit_of(value: Any, kind: ScoreKind) -> float:
    """The logit of a score.

    :raises ValueError: it is no number, or none of its kind.

    >>> logit_of(0.5, "probability"), logit_of(-1.5, "logit"), round(logit_of(1, "probability"), 1)
    (0.0, -1.5, 16.1)
    """
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if kind == "logit":
        if not abs(number) <= _MAX_LOGIT:
            raise ValueError(f"{shown(value)} is no logit")
        return number
    if not 0 <= number <= 1:
        raise ValueError(f'{shown(value)} is no probability; is score_kind "logit" meant?')
    probability = min(max(number, _NEAREST), 1 - _NEAREST)
    return math.log(probability) - math.log1p(-probability)

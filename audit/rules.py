"""Which action makes a pair positive where one is not enough: rule 7 of ``docs/join.md``, over all actions at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rillet.schemas.arrays import Int64s
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast


@dataclass(slots=True)
class _Pair:
    """The actions that counted so far."""

    seen: set[Hashable] = field(default_factory=set)
    #: of their values, added up in order
    total: float = 0.0
    turned: bool = False


def turning_actions(
    rule: AtLeast, pairs: Int64s, actions: Sequence[tuple[Hashable, float | None]]
) -> tuple[Int64s, Counter[str]]:
    """Numbers of the actions that make a pair positive, int64[k], and what became of the others, by the joiner's names.

    :param pairs: int64[n], of each valid action, in order of arrival.
    :param actions: what tells each from the others of its pair, and its value.
    """
    found: dict[int, _Pair] = {}
    turning, counts = [], Counter[str]()
    for number, (pair, (identity, value)) in enumerate(zip(pairs.tolist(), actions, strict=True)):
        of_pair = found.setdefault(pair, _Pair())
        once = rule.measure == "count" or (rule.measure == "sum" and value is not None)
        if of_pair.turned or (once and identity in of_pair.seen):
            counts["duplicate_actions"] += 1
            continue
        if rule.measure == "count":
            reached: float | None = len(of_pair.seen) + 1
        elif rule.measure == "sum":
            reached = None if value is None else of_pair.total + value
        else:
            reached = value
        if reached is not None and reached >= rule.number:
            of_pair.turned = True
            turning.append(number)
        elif rule.measure == "value" or reached is None or len(of_pair.seen) < MOST_GATHERED:
            counts["incomplete_actions"] += 1
            if rule.measure != "value" and reached is not None:
                of_pair.total += value or 0.0
                of_pair.seen.add(identity)
        else:
            counts["ungathered_actions"] += 1
    return np.array(turning, np.int64), counts

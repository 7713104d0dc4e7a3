"""When the actions on a pair make it positive, where one action of any kind is not enough.

The actions of a pair are taken in order of arrival, and the one that first makes the rule true makes the pair positive:
``docs/join.md``, rule 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["count", "sum", "value"]
#: actions that are gathered of a pair at most: what a request remembers is bounded, whoever sends the actions
MOST_GATHERED = 256


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A pair is positive once a measure of its actions is at least ``number``.

    ``count`` is how many there were, ``sum`` the sum of their values, ``value`` the value of a single one.
    """

    measure: Measure
    number: float

    @property
    def needs_values(self) -> bool:
        """Whether actions without a value count for nothing; ``count`` takes them."""
        return self.measure != "count"

    def __str__(self) -> str:
        """For people.

        >>> str(AtLeast("sum", 20.0))
        'sum of at least 20'
        """
        return f"{self.measure} of at least {self.number:g}"

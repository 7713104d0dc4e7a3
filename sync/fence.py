"""What the place of a record in the log says about it: in order, stale, seen before, or after a gap.

Fencing goes by position: a record is stale if a higher epoch stands before it in the log. So all readers
that start from the same base agree on every record, whenever they read it. Within an epoch the sequence
rises by one per record; an epoch begins at sequence 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Order(StrEnum):
    """How a record follows those before it."""

    NEXT = "next"
    STALE = "stale"
    SEEN = "seen"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Fence:
    """The highest epoch so far, and the sequence that its next record bears."""

    epoch: int
    next_sequence: int

    def order_of(self, epoch: int, sequence: int) -> Order:
        """How a record follows those before it; changes nothing."""
        if epoch < self.epoch:
            return Order.STALE
        expected = self.expected_sequence(epoch)
        if sequence < expected:
            return Order.SEEN
        return Order.NEXT if sequence == expected else Order.GAP

    def expected_sequence(self, epoch: int) -> int:
        """Sequence of the next record of ``epoch``, which is not below the fence's."""
        return self.next_sequence if epoch == self.epoch else 0

    def after(self, epoch: int, sequence: int) -> Fence:
        """The fence once a record that is neither stale nor seen has been taken."""
        return Fence(epoch, sequence + 1)

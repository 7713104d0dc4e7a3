"""A record's place in the log."""

from __future__ import annotations

import pytest

from rillet.sync.fence import Fence, Order


@pytest.mark.parametrize(
    ("epoch", "sequence", "order"),
    [
        (4, 9, Order.STALE),
        (5, 6, Order.SEEN),
        (5, 7, Order.NEXT),
        (5, 8, Order.GAP),
        (6, 0, Order.NEXT),
        (6, 1, Order.GAP),
        (9, 0, Order.NEXT),
    ],
)
def test_order_after_sequence_6_of_epoch_5(epoch: int, sequence: int, order: Order) -> None:
    assert Fence(5, 7).order_of(epoch, sequence) is order


def test_a_record_that_was_taken_is_seen_afterwards() -> None:
    fence = Fence(0, 0).after(3, 0)
    assert fence.order_of(3, 0) is Order.SEEN
    assert fence.order_of(3, 1) is Order.NEXT
    assert fence.order_of(2, 1) is Order.STALE

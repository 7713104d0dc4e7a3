"""A read with an end: reached, or held back by a topic that ended before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from unittest.mock import MagicMock

import pytest

from rillet.connectors.errors import BrokerUnavailableError
from rillet.pipelines.bounded_read import BoundedRead

Unread = Mapping[str, Mapping[int, int]]
READ: Unread = {}


class Read:
    """A :class:`BoundedRead` that finds given positions, one second after the other."""

    def __init__(self, found: Iterable[Unread | Exception]) -> None:
        lag = MagicMock()
        lag.ends.return_value = {("features", 0): 9, ("actions", 0): 9, ("actions", 1): 9}
        lag.unread.side_effect = found
        self.now_s = 0.0
        self.read = BoundedRead(lag, lambda: self.now_s)

    def after(self, seconds: float) -> tuple[bool, bool]:
        self.now_s += seconds
        self.read.refresh()
        return self.read.reached, self.read.held_back


def test_what_is_read_is_reached() -> None:
    read = Read([{"features": {0: 3}, "actions": {0: 0, 1: 0}}, {"actions": {0: 9, 1: 5}}, READ])
    assert (read.read.reached, read.read.held_back) == (False, False)
    assert [read.after(1) for _ in range(3)] == [(False, False), (False, False), (True, False)]


def test_a_topic_that_stands_while_the_other_is_read_is_held_back_after_ten_seconds() -> None:
    stands = {"actions": {0: 9, 1: 5}}
    read = Read([stands, stands, stands, {"actions": {0: 9, 1: 6}}])
    assert [read.after(seconds) for seconds in (1, 9, 1)] == [(False, False), (False, False), (False, True)]
    assert read.after(1) == (False, False)


def test_topics_that_both_stand_hold_back_none() -> None:
    stand = {"features": {0: 3}, "actions": {0: 0, 1: 0}}
    read = Read([stand, stand])
    assert [read.after(30) for _ in range(2)] == [(False, False), (False, False)]


def test_a_broker_that_was_away_explains_why_nothing_moved(caplog: pytest.LogCaptureFixture) -> None:
    stands = {"actions": {0: 9, 1: 5}}
    read = Read([stands, BrokerUnavailableError("away"), stands])
    assert [read.after(8) for _ in range(3)] == [(False, False)] * 3
    assert "how far the topics are read is not known: away" in caplog.text

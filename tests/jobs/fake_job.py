"""A joiner's service without Flink: its job is one of these, its broker's answers are set."""

from __future__ import annotations

from collections.abc import Iterable
from unittest.mock import MagicMock

import pytest

from rillet.jobs import joiner_run
from rillet.jobs.errors import ServiceError


class FailedJob:
    """A job that fails at once."""

    def __init__(self, *_: object) -> None:
        pass

    def running(self) -> bool:
        return True

    ready = running

    def finished(self, wait_s: float) -> bool:
        return True

    def raise_failure(self) -> None:
        raise ServiceError("the joiner job failed")


class RunningJob(FailedJob):
    """A job that runs until it is stopped."""

    cancelled = False

    def finished(self, wait_s: float) -> bool:
        return False

    def tell(self) -> None:
        pass

    def raise_failure(self) -> None:
        pass


def set_unread(monkeypatch: pytest.MonkeyPatch, reached: Iterable[bool | Exception]) -> None:
    """Whether the ends are reached, each time that it is asked; or what it fails with."""
    lag = MagicMock()
    entered = lag.return_value.__enter__.return_value
    entered.ends.return_value = {("features", 0): 9, ("actions", 0): 9}
    unread = {True: {}, False: {"actions": {0: 1}}}
    entered.unread.side_effect = (answer if isinstance(answer, Exception) else unread[answer] for answer in reached)
    monkeypatch.setattr(joiner_run, "GroupLag", lag)


def signal_at_once(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """The first runs get a signal when they begin."""
    left = iter(range(times))
    monkeypatch.setattr(joiner_run, "call_on_signals", lambda stop: stop() if next(left, None) is not None else None)

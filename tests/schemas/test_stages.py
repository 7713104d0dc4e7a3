"""Stages that start and end together: none is left open, whatever another one does."""

from __future__ import annotations

import pytest

from rillet.schemas import StageGroup


class _Noted:
    """Writes down its calls, and raises in those that ``fails`` names."""

    def __init__(self, name: str, calls: list[str], fails: str = "") -> None:
        self._name, self._calls, self._fails = name, calls, fails

    def start(self) -> None:
        self._do("start")

    def close(self) -> None:
        self._do("close")

    def _do(self, what: str) -> None:
        self._calls.append(f"{what} {self._name}")
        if what == self._fails:
            raise RuntimeError(f"{self._name} does not {what}")


def test_a_start_that_fails_closes_all_in_reverse_and_starts_none_after_it() -> None:
    calls: list[str] = []
    group = StageGroup([_Noted("a", calls), _Noted("b", calls, "start"), _Noted("c", calls)])
    with pytest.raises(RuntimeError, match="b does not start"):
        group.start()
    assert calls == ["start a", "start b", "close c", "close b", "close a"]


def test_a_stage_that_cannot_be_closed_is_told_of_after_the_others_are_closed() -> None:
    calls: list[str] = []
    group = StageGroup([_Noted("a", calls), _Noted("b", calls, "close"), _Noted("c", calls)])
    with pytest.raises(RuntimeError, match="b does not close"):
        group.close()
    assert calls == ["close c", "close b", "close a"]


def test_what_kept_a_stage_from_starting_is_told_even_if_another_cannot_be_closed() -> None:
    calls: list[str] = []
    group = StageGroup([_Noted("a", calls, "close"), _Noted("b", calls, "start")])
    with pytest.raises(RuntimeError, match="b does not start") as caught:
        group.start()
    assert caught.value.__notes__ == ["and when closing what had started: RuntimeError: a does not close"]


def test_an_error_at_closing_does_not_hide_the_one_before_it() -> None:
    group = StageGroup([_Noted("a", [], "close")])

    def run() -> None:
        try:
            raise KeyError("first")
        finally:
            group.close()

    with pytest.raises(RuntimeError, match="a does not close") as caught:
        run()
    assert isinstance(caught.value.__context__, KeyError)

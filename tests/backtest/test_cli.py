"""What `rillet backtest` refuses before a run."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from rillet.backtest.cli import _Interval, check_writable


def test_a_path_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("of last week")
    check_writable(None)
    check_writable(there)
    check_writable(tmp_path / "new.json")
    assert there.read_text() == "of last week"
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


@pytest.mark.parametrize("name", ["no/such/folder.json", "."])
def test_a_path_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(click.UsageError, match=r"cannot be written \((No such file or directory|Is a directory)\)"):
        check_writable(tmp_path / name)


@pytest.mark.parametrize(("text", "interval_ms"), [("500ms", 500), ("10s", 10_000), ("2h", 7_200_000), ("0", 0)])
def test_intervals_have_units(text: str, interval_ms: int) -> None:
    assert _Interval().convert(text, None, None) == interval_ms
    assert _Interval().convert(interval_ms, None, None) == interval_ms


def test_an_interval_without_a_unit_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="10"):
        _Interval().convert("10", None, None)

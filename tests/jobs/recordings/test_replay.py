"""Speeds, and a real broker: a recording that goes through two topics comes back the same."""

from __future__ import annotations

import pytest

from jobs.recordings import RecordingError
from jobs.recordings.replay import parse_speed


def test_speeds_are_factors_or_max() -> None:
    assert parse_speed("max") is None
    assert parse_speed("1x") == 1
    assert parse_speed("2.5x") == 2.5
    for wrong in ("fast", "0x", "-1x", "nan", "inf"):
        with pytest.raises(RecordingError, match="speed"):
            parse_speed(wrong)

"""Settings of the join that make no sense are refused by name."""

from __future__ import annotations

import pytest

from rillet.joiner import JoinerConfig


@pytest.mark.parametrize("name", ["buckets", "action_wait_ms", "memory_bytes", "block_rows"])
@pytest.mark.parametrize("value", [0, -1])
def test_what_has_to_be_positive_is_refused_otherwise(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: {value} is not above 0"):
        JoinerConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slice_ms", "late_retention_ms", "max_ahead_ms"])
def test_a_length_of_time_may_be_zero_and_not_negative(name: str) -> None:
    JoinerConfig(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name}: -1 is below 0"):
        JoinerConfig(**{name: -1})  # type: ignore[arg-type]


def test_each_bucket_has_a_key_group_of_its_own() -> None:
    JoinerConfig(buckets=1_024)
    with pytest.raises(ValueError, match="buckets: 1025 is above 1024"):
        JoinerConfig(buckets=1_025)

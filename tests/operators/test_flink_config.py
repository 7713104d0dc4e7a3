"""Settings of the Flink job that make no sense are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rillet.operators.flink_config import FlinkConfig


@pytest.mark.parametrize(
    "name",
    [
        *("parallelism", "heap_bytes", "managed_bytes", "checkpoint_interval_ms", "checkpoint_timeout_ms", "stable_ms"),
        *("retained_checkpoints", "keep_savepoints", "transaction_timeout_ms", "idle_ms", "bundle_time_ms"),
    ],
)
def test_what_has_to_be_positive_is_refused_otherwise(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0 is not above 0"):
        FlinkConfig(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lateness_ms", "max_drift_ms", "max_restarts", "tolerated_failed_checkpoints"])
def test_what_may_be_zero_is_refused_below_it(name: str) -> None:
    FlinkConfig(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name}: -1 is below 0"):
        FlinkConfig(**{name: -1})  # type: ignore[arg-type]


def test_a_transaction_outlives_the_checkpoints_that_may_fail_before_one_commits_it() -> None:
    """The broker aborts a transaction that is too old, and Flink then drops its rows."""
    assert FlinkConfig().longest_transaction_ms == 600_000
    slow = FlinkConfig(checkpoint_interval_ms=300_000, tolerated_failed_checkpoints=1)
    assert slow.longest_transaction_ms == 720_000
    with pytest.raises(ValueError, match=r"transaction_timeout_ms: 900000 is less than .* \(1320000 ms"):
        replace(slow, tolerated_failed_checkpoints=3)
    replace(slow, tolerated_failed_checkpoints=3, transaction_timeout_ms=1_320_000)

"""Settings of the Flink job that make no sense are refused by name."""

from __future__ import annotations

import pytest

from rillet.operators.flink_config import MAX_CHECKPOINT_INTERVAL_MS, FlinkConfig


@pytest.mark.parametrize("name", ["parallelism", "checkpoint_interval_ms", "idle_ms", "bundle_time_ms"])
def test_what_has_to_be_positive_is_refused_otherwise(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0 is not above 0"):
        FlinkConfig(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["lateness_ms", "max_drift_ms", "max_restarts"])
def test_what_may_be_zero_is_refused_below_it(name: str) -> None:
    FlinkConfig(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name}: -1 is below 0"):
        FlinkConfig(**{name: -1})  # type: ignore[arg-type]


def test_a_transaction_has_to_fit_between_two_checkpoints() -> None:
    FlinkConfig(checkpoint_interval_ms=MAX_CHECKPOINT_INTERVAL_MS)
    with pytest.raises(ValueError, match="checkpoint_interval_ms: 300001 is above 300000"):
        FlinkConfig(checkpoint_interval_ms=MAX_CHECKPOINT_INTERVAL_MS + 1)

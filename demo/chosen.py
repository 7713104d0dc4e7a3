"""What the demo learns with: chosen by backtests on requests that it does not show (``docs/decisions/0011``)."""

from __future__ import annotations

from typing import Any


def chosen_learning(dataset: str) -> dict[str, Any]:
    """Tables of a configuration for a data set; every other value is a default."""
    return {"table": {"optimizer": "adagrad", "learning_rate": 0.05}}

"""Errors of this room."""

from __future__ import annotations

from rillet.schemas import RilletError


class BacktestError(RilletError):
    """A run of a backtest failed."""

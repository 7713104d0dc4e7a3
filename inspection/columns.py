"""Columns and numbers of records as JSON has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rillet.inspection.words import iso
from rillet.schemas import NO_TIME_MS, RecordError

Json = dict[str, Any]


def time_fields(name: str, time_ms: int) -> Json:
    """A time as a number for programs and as text for people."""
    return {f"{name}_ms": None if time_ms == NO_TIME_MS else time_ms, name: iso(time_ms)}


def plain(value: float) -> float | str:
    """A number of single precision; as text where it is not finite, which JSON has no form for."""
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


def probability(logit: float) -> float | str:
    """What a logit says, to four digits; as text where it is not finite."""
    if not math.isfinite(logit):
        return str(logit)
    # The larger side of the logistic function, so that no exponential overflows.
    small = math.exp(-abs(logit)) / (1 + math.exp(-abs(logit)))
    return float(f"{small if logit < 0 else 1 - small:.4g}")


def matrix(column: Any, rows: int, name: str) -> Any:
    """A flat column as [rows, width].

    :raises RecordError: it does not divide so.
    """
    if not rows:
        return np.empty((0, 0), np.float32)
    if len(column) % rows:
        raise RecordError(f"{name}: {len(column)} values are no whole number per row of {rows} rows")
    return column.reshape(rows, -1)

"""Checks of the numbers in a configuration: one sentence for each kind of wrong value, the field's name first."""

from __future__ import annotations

import math


def check_above_zero(config: object, *names: str) -> None:
    """:raises ValueError: one of the named attributes is 0, below it, or not a number."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}: {getattr(config, name)} is not above 0")


def check_not_negative(config: object, *names: str) -> None:
    """:raises ValueError: one of the named attributes is below 0, or not a number."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}: {getattr(config, name)} is below 0")


def check_at_most(config: object, limit: float, *names: str) -> None:
    """:raises ValueError: one of the named attributes is above ``limit``."""
    for name in names:
        if getattr(config, name) > limit:
            raise ValueError(f"{name}: {getattr(config, name)} is above {limit}")


def check_finite(config: object, *names: str) -> None:
    """:raises ValueError: one of the named attributes is infinite, or not a number."""
    for name in names:
        if not math.isfinite(getattr(config, name)):
            raise ValueError(f"{name}: {getattr(config, name)} is not finite")

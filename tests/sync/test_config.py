"""Values out of range are refused by name."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rillet.sync import SyncConfig


@pytest.mark.parametrize("name", [field.name for field in fields(SyncConfig) if field.name != "store"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_not_above_zero_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {value} is not above 0"):
        SyncConfig(**{name: value})


def test_an_empty_store_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^store"):
        SyncConfig(store="")

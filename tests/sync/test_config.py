"""Values out of range are refused by name."""

from __future__ import annotations

from dataclasses import fields

import pytest

from rillet.sync import PublisherConfig, ReplicaConfig, StoreConfig


@pytest.mark.parametrize(
    ("config", "name"),
    [(config, field.name) for config in (PublisherConfig, ReplicaConfig) for field in fields(config)],
)
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_not_above_zero_is_refused_by_name(
    config: type[PublisherConfig | ReplicaConfig], name: str, value: int
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {value} is not above 0"):
        config(**{name: value})


def test_an_empty_store_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^url: empty"):
        StoreConfig(url="")

"""What a service tells of itself."""

from __future__ import annotations

from importlib import metadata

import pytest
from prometheus_client import CollectorRegistry

from rillet.connectors.service_info import announce_service


def test_it_tells_version_model_spec_and_the_time_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.5)
    registry = CollectorRegistry()
    announce_service(registry, model="films", spec_hash=0xABC)
    labels = {"version": metadata.version("rillet"), "model": "films", "spec_hash": "0xabc"}
    assert registry.get_sample_value("rillet_service_info", labels) == 1
    assert registry.get_sample_value("rillet_service_start_timestamp_seconds") == 1_700_000_000.5


def test_where_it_is_not_installed_its_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    registry = CollectorRegistry()
    announce_service(registry, model="films", spec_hash=1)
    labels = {"version": "unknown", "model": "films", "spec_hash": "0x1"}
    assert registry.get_sample_value("rillet_service_info", labels) == 1

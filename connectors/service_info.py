"""What every service tells Prometheus of itself: what it is, and since when it runs."""

from __future__ import annotations

import time
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge


def announce_service(registry: CollectorRegistry, *, model: str, spec_hash: int) -> None:
    """Adds ``rillet_service_info`` and the time of the start, which is now.

    :param spec_hash: of the feature spec without its crosses.
    """
    Gauge(
        "rillet_service_info",
        "Version of rillet, model and feature spec of this service; always 1.",
        ("version", "model", "spec_hash"),
        registry=registry,
    ).labels(_version(), model, f"{spec_hash:#x}").set(1)
    started = Gauge("rillet_service_start_timestamp_seconds", "When this service was started.", registry=registry)
    started.set(time.time())


def _version() -> str:
    try:
        return metadata.version("rillet")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"

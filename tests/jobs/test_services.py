"""Where services are found by those who ask for their state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.jobs.config import HealthConfig, RilletConfig
from rillet.jobs.services import metrics_url, ready_url
from rillet.serving.config import ServingConfig


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("::", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("fd00::7", "[fd00::7]"),
    ],
)
def test_a_url_names_an_address_that_can_be_asked(host: str, reached: str) -> None:
    config = replace(
        RilletConfig(spec=Path("spec.toml")),
        serving=ServingConfig(host=host, port=8500),
        health=HealthConfig(host=host, train_port=9102),
    )
    assert ready_url(config, "serve") == f"http://{reached}:8500/v2/health/ready"
    assert metrics_url(config, "train") == f"http://{reached}:9102/metrics"

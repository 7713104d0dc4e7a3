"""Scenarios on a cluster take minutes each: they are collected for ``make test-long`` alone."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "long" not in config.option.markexpr else None

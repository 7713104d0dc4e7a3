"""The examples in the client's docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["candidates", "attempts", "exchanges"])
def test_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"rillet.serving.client.{module}"))
    assert result.attempted > 0
    assert result.failed == 0

"""Names of a package that come when they are asked for."""

from __future__ import annotations

import sys

import pytest

from rillet.schemas.lazy import lazy_names


def test_a_module_is_loaded_when_its_name_is_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    load = lazy_names("package", {"colorsys": ["rgb_to_hsv"]})
    assert "colorsys" not in sys.modules
    assert load("rgb_to_hsv") is sys.modules["colorsys"].rgb_to_hsv


def test_an_unknown_name_is_an_attribute_error_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        lazy_names("package", {"colorsys": ["rgb_to_hsv"]})("other")

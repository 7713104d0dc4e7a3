"""The suites are plain modules: their asserts are to explain themselves like those of tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.contracts.delta_log_suite", "tests.contracts.object_store_suite")

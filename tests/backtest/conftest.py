"""A report that many tests look at."""

from __future__ import annotations

import pytest

from rillet.backtest.report import BacktestReport
from tests.backtest.reports import REQUESTS, report_of


@pytest.fixture
def report() -> BacktestReport:
    return report_of([1_000 * at for at in range(REQUESTS)])

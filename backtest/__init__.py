"""The whole loop in one process and in simulated time: production code of joiner, trainer, publication and scoring.

report = backtest(Recording("recordings/monday"), load_config("rillet.toml"))
print(report.table())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rillet.backtest.loop import Delays, backtest
    from rillet.backtest.report import BacktestReport

_LAZY = {
    "BacktestReport": "rillet.backtest.report",
    "Delays": "rillet.backtest.loop",
    "backtest": "rillet.backtest.loop",
}
__all__ = ["BacktestReport", "Delays", "backtest"]


def __getattr__(name: str) -> Any:
    # The command of this room lies beside the loop: its --help must not load torch.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

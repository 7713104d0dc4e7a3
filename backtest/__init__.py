"""The whole loop in one process and in simulated time: production code of joiner, trainer, publication and scoring.

recording = Recording("recordings/monday")
report = compare(recording, grid(recording.info.spec, Path("rillet.toml"), ["model.kind=deepfm,logistic"]))
print(report.table())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rillet.backtest.comparison import compare
    from rillet.backtest.delays import Delays
    from rillet.backtest.errors import BacktestError
    from rillet.backtest.loop import backtest
    from rillet.backtest.report import BacktestReport
    from rillet.backtest.settings import Setup, grid

_LAZY = {
    "BacktestError": "rillet.backtest.errors",
    "BacktestReport": "rillet.backtest.report",
    "Delays": "rillet.backtest.delays",
    "Setup": "rillet.backtest.settings",
    "backtest": "rillet.backtest.loop",
    "compare": "rillet.backtest.comparison",
    "grid": "rillet.backtest.settings",
}
__all__ = ["BacktestError", "BacktestReport", "Delays", "Setup", "backtest", "compare", "grid"]


def __getattr__(name: str) -> Any:
    # The command of this room lies beside the loop: its --help must not load torch.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)

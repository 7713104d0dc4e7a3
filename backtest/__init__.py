"""The whole loop in one process and in simulated time: production code of joiner, trainer, publication and scoring.

recording = Recording("recordings/monday")
report = compare(recording, grid(recording.info.spec, Path("rillet.toml"), ["model.kind=deepfm,logistic"]))
print(report.table())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rillet.backtest.comparison import compare
    from rillet.backtest.delays import Delays
    from rillet.backtest.errors import BacktestError
    from rillet.backtest.loop import backtest
    from rillet.backtest.report import BacktestReport
    from rillet.backtest.settings import Setup, grid

__all__ = ["BacktestError", "BacktestReport", "Delays", "Setup", "backtest", "compare", "grid"]

_MODULES = {
    "rillet.backtest.comparison": ["compare"],
    "rillet.backtest.delays": ["Delays"],
    "rillet.backtest.errors": ["BacktestError"],
    "rillet.backtest.loop": ["backtest"],
    "rillet.backtest.report": ["BacktestReport"],
    "rillet.backtest.settings": ["Setup", "grid"],
}


def __getattr__(name: str) -> Any:
    # The command of this room lies beside the loop: its --help loads neither torch nor, with the records, NumPy.
    from rillet.schemas.lazy import lazy_names

    return lazy_names(__name__, _MODULES)(name)

"""Backtests' reports of a few requests, without the loop."""

from __future__ import annotations

import numpy as np

from rillet.backtest.events import label_events
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import Setup
from rillet.schemas.arrays import Float32s
from tests.backtest.events import SPEC, action, request

REQUESTS = 120


def report_of(
    times: list[int],
    logits: dict[str, Float32s] | None = None,
    setups: dict[str, Setup] | None = None,
    last_event_ms: int | None = None,
    **shown: object,
) -> BacktestReport:
    """Requests of three items; item 1 is clicked in every second one, item 2 in every third."""
    events = [
        request(
            f"<{at}>",
            time,
            [1, 2, 3],
            user=at % 4,
            hour=at % 3,
            tags=range(at % 3),
            served=[0.1 * at, 0, 0.2, 0, -0.1, 0] if at % 2 else None,
        )
        for at, time in enumerate(times)
    ]
    clicks = [action(f"<{at}>", time + 1, 1 + (at % 2)) for at, time in enumerate(times) if at % 3 == 0 or at % 2]
    expected = label_events([*events, *clicks], SPEC)
    rng = np.random.default_rng(0)
    noise = {
        name: rng.normal(size=(3 * len(times), 2)).astype(np.float32) for name in ("model", "frozen", "popularity")
    }
    last_ms = max(times) + 3_600_000 if last_event_ms is None else last_event_ms  # every window had closed
    return BacktestReport(expected, logits or noise, times[len(times) // 5], last_ms, setups or {}, **shown)  # type: ignore[arg-type]

"""What SIGTERM and SIGINT (Ctrl-C) do to a service: it ends with status 0, and what it has learned or joined is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_at_once_on_signals() -> None:
    """For a service that has not begun: it waits for a broker, perhaps for long, and has nothing to keep."""

    def end() -> None:
        raise SystemExit(0)

    call_on_signals(end)


def call_on_signals(stop: Callable[[], object]) -> None:
    """Calls ``stop`` for each signal, on the main thread, where this has to be called too."""
    for number in _SIGNALS:
        signal.signal(number, lambda *_: stop())

"""Runs over the same recording, several of them in parallel processes, judged by the same labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rillet.backtest.delays import Delays
from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times
from rillet.backtest.names import BASELINES, SERVED
from rillet.backtest.report import BacktestReport
from rillet.backtest.results import check_judgeable, report_of
from rillet.backtest.settings import Setup
from rillet.backtest.workers import Run, Workers, rare_collections, score_here
from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ConfigError
from rillet.recordings import Recording


def compare(
    recording: Recording | Path | str,
    setups: Mapping[str, Setup | RilletConfig],
    *,
    requests: int | None = None,
    judge_from: float = 0.2,
    baselines: Sequence[str] = BASELINES,
    seeds: int = 1,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BacktestReport:
    """Backtests setups over one recording; several runs in parallel processes, a single one in this.

    A script that calls this for several needs ``if __name__ == "__main__":`` around it, as everything that starts processes.

    :param setups: what to compare, by name; of :func:`rillet.backtest.grid`, or configurations, which then run with the
        recording's spec and their own intervals. The first one's baselines are shown, and differences are to it.
    :param requests: only the first so many; None for all.
    :param judge_from: share of the requests after which scores are judged, and at which the frozen model stops learning.
    :param baselines: of ``BASELINES``.
    :param seeds: runs per setup, each under other seeds of weights, rows and sampling; baselines run with the first. From 2
        on, intervals tell what another seed would change; with 1 the luck of a run cannot be told from a setting, so
        differences of setups and to seeded baselines have no interval.
    :param workers: processes at a time; None for one per core.
    :param on_progress: called with the requests scored so far in all runs, and how many there will be.
    :raises RecordingError: the recording is damaged.
    :raises ConfigError: there is nothing to compare, or a name is a baseline's.
    :raises BacktestError: one of several runs failed, with its name, and the others are ended; or no task can be judged.
    :raises ModelError: the model of a single run cannot be built or no longer learns.
    """
    recording = recording if isinstance(recording, Recording) else Recording(Path(recording))
    spec = recording.info.spec
    if not setups:
        raise ConfigError("setups: there is none to run")
    for name in {*setups} & {*BASELINES, SERVED}:
        raise ConfigError(f"setups: {name} is the name of a baseline; choose another")
    if seeds < 1:
        raise ConfigError(f"seeds: {seeds} is below 1")
    for name in {*baselines} - {*BASELINES}:
        raise ConfigError(f"baselines: {name} is none of {', '.join(BASELINES)}")
    resolved = {
        name: Setup(setup, spec, Delays.of(setup)) if isinstance(setup, RilletConfig) else setup
        for name, setup in setups.items()
    }
    first = next(iter(resolved))
    runs = [
        Run(
            (name, seed),
            recording.directory.absolute(),
            requests,
            setup.reseeded(seed),
            tuple(baselines) if name == first else (),
            judge_from,
        )
        for seed in range(seeds)
        for name, setup in resolved.items()
    ]
    with ExitStack() as stack:
        stack.enter_context(rare_collections())
        processes = stack.enter_context(Workers(runs, workers or os.cpu_count() or 1)) if len(runs) > 1 else None
        # While they import and compile; what is here is needed anyway.
        events = load_events(recording, requests)
        times = request_times(events)
        judged_from_ms = judged_from(times, judge_from)
        last_event_ms = last_event(recording, events, requests)
        check_judgeable(recording, last_event_ms, judged_from_ms)
        expected = label_events(events, spec)
        done = dict.fromkeys(range(len(runs)), 0)

        def progress(index: int, requests_done: int) -> None:
            done[index] = requests_done
            on_progress(sum(done.values()), len(times) * len(runs))

        if processes is None:
            # Imported and decoded once; there is nothing to do beside it.
            results = {runs[0].key: score_here(runs[0], events, spec, partial(progress, 0))}
        else:
            del events
            results = processes.results(progress)
    on_progress(len(times) * len(runs), len(times) * len(runs))
    return report_of(
        recording,
        expected,
        last_event_ms,
        judged_from_ms,
        resolved,
        {name: [results[name, seed] for seed in range(seeds)] for name in resolved},
    )

"""From the scores of runs to a report on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rillet.audit.expected import ExpectedExamples
from rillet.backtest.errors import BacktestError
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import Setup
from rillet.recordings import Recording
from rillet.schemas.arrays import Float32s, Int64s


@dataclass(frozen=True, slots=True)
class Scores:
    """What one run gives."""

    #: ``model`` and baselines to float32[impressions, T]
    logits: Mapping[str, Float32s]
    #: what happened to the events in the joiner
    counters: Mapping[str, int]
    #: rows that the model was given, int64[T, 2]: negatives and positives
    learned: Int64s


def report_of(
    recording: Recording,
    expected: ExpectedExamples,
    last_event_ms: int,
    judged_from_ms: int,
    setups: Mapping[str, Setup],
    runs: Mapping[str, Sequence[Scores]],
) -> BacktestReport:
    """The report on setups, each run once or more.

    :param expected: labels of what was scored, by the recording's own spec.
    :param last_event_ms: of :func:`rillet.backtest.events.last_event`.
    :param runs: of each setup, under one seed after the other; baselines are in those of the first.
    """
    first = next(iter(setups))
    baselines = [name for name in runs[first][0].logits if name != "model"]
    scores = {name: [run.logits["model"] for run in runs[name]] for name in setups} | {
        name: [run.logits[name] for run in runs[first]] for name in baselines
    }
    return BacktestReport(
        expected,
        {name: of_runs[0] for name, of_runs in scores.items()},
        judged_from_ms,
        last_event_ms,
        setups,
        {name: runs[name][0].counters for name in setups},
        {name: tuple(of_runs[1:]) for name, of_runs in scores.items()},
        {name: runs[name][0].learned for name in setups},
        recording=recording.directory.name,
    )


def check_judgeable(recording: Recording, last_event_ms: int, judged_from_ms: int) -> None:
    """Refuses a recording that ends before the label window of a single judged request has closed.

    :raises BacktestError: of every task.
    """
    spec = recording.info.spec
    shortest = min(spec.tasks, key=lambda task: task.window_ms + task.early_ms)
    if judged_from_ms + shortest.window_ms + shortest.early_ms > last_event_ms:
        raise BacktestError(
            f"{recording.directory}: nothing to judge: the recording ends {(last_event_ms - judged_from_ms) / 1000:,.0f} s"
            f" after judging starts, and the shortest label window (task {shortest.name}) is "
            f"{shortest.window_ms / 1000:,.0f} s; record for longer, or judge from earlier"
        )

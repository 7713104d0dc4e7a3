"""Scores that the live ones are held against: popularity and logistic regression at the same delays, and the truth.

The baselines run in simulated time, in the backtest's loop: joiner and trainer of the live run in one process. They learn
from the whole recording, batch stage included, as one continuous stream.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.backtest.delays import Delays
from rillet.backtest.events import load_events
from rillet.backtest.loop import baseline_scorers, one_thread, run_scorers
from rillet.backtest.settings import Setup
from rillet.backtest.workers import rare_collections
from rillet.demo.errors import DemoError
from rillet.jobs.config import RilletConfig
from rillet.jobs.processes import end_with_parent
from rillet.recordings import Recording
from rillet.recordings.format import TRUTH_FILE
from rillet.recordings.known_truth import read_truth
from rillet.schemas import FeatureEvent
from rillet.schemas.arrays import Float32s, Int64s, range_indices

BASELINES = ("logistic", "decayed_popularity", "popularity")
TRUTH = "truth"


@dataclass(frozen=True, slots=True)
class References:
    """Scores of a recording's impressions, request after request.

    :param logits: by name, float32[impressions, T].
    :param first_row: of each request, by its id.
    """

    logits: Mapping[str, Float32s]
    first_row: Mapping[str, int]

    def of(self, joined: ExpectedExamples, requests: Int64s) -> dict[str, Float32s]:
        """The scores of all impressions of ``requests``, which are numbers of requests of ``joined``, in their order."""
        starts = np.array([self.first_row[joined.request_ids[number]] for number in requests.tolist()], np.int64)
        rows = range_indices(starts, joined.start[requests + 1] - joined.start[requests])
        return {name: logits[rows] for name, logits in self.logits.items()}


def reference_scores(
    recording: Recording,
    config: RilletConfig,
    delays: Delays,
    *,
    requests: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> References:
    """Scores of the first ``requests`` of a recording, each made from what had been learned by then.

    :param config: of the live run; the logistic regression has its settings.
    :param delays: of the live run, in event time.
    :param on_progress: called now and then with the requests that are through.
    :raises RecordingError: the recording is damaged.
    """
    setup = Setup(config, recording.info.spec, delays)
    events = load_events(recording, requests)
    with one_thread():
        scorers = baseline_scorers(setup, BASELINES, judged_from_ms=0)
        logits, _ = run_scorers(events, setup.spec, setup, scorers, on_progress)
    first_row: dict[str, int] = {}
    rows = 0
    for event in events:
        if isinstance(event, FeatureEvent):
            first_row[event.request_id] = rows
            rows += len(event.impression_ids)
    if (recording.directory / TRUTH_FILE).exists():
        logits[TRUTH] = _logits(_in_order(recording, read_truth(recording.directory), first_row, rows))
    return References(logits, first_row)


@contextmanager
def scored_beside(
    recording: Recording, config: RilletConfig, delays: Delays, *, requests: int
) -> Iterator[Callable[[], References]]:
    """:func:`reference_scores` in a process of its own, which leaving the context ends.

    The context's value waits for them, and raises what they raised, or :class:`DemoError` where the process has died.
    """
    # Not forked: there are threads by now. One that dies is noticed, which a multiprocessing.Pool would wait for.
    pool = ProcessPoolExecutor(1, get_context("spawn"), _end_with_the_demo)
    try:
        scored = pool.submit(_score, recording.directory, config, delays, requests)

        def result() -> References:
            try:
                return scored.result()
            except BrokenProcessPool as error:
                raise DemoError(
                    "the process that scores by popularity and logistic regression died: out of memory?"
                ) from error

        yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()


def _end_with_the_demo() -> None:
    # A terminal's Ctrl-C goes to all processes; this one is ended by the one that started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _score(directory: Path, config: RilletConfig, delays: Delays, requests: int) -> References:
    with rare_collections():
        return reference_scores(Recording(directory), config, delays, requests=requests)


def _in_order(recording: Recording, truth: Float32s, first_row: Mapping[str, int], rows: int) -> Float32s:
    """Rows in the order of the recording's files, brought into the order of ``first_row``."""
    ordered = np.empty((rows, truth.shape[1]), np.float32)
    begin = 0
    for event in recording.features():
        count = len(event.impression_ids)
        at = first_row.get(event.request_id)
        if at is not None:
            ordered[at : at + count] = truth[begin : begin + count]
        begin += count
    return ordered


def _logits(probabilities: Float32s) -> Float32s:
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    logits: Float32s = np.log(p / (1 - p)).astype(np.float32)
    return logits

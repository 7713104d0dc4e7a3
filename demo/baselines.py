"""Scores that the live ones are held against: popularity and logistic regression at the same delays, and the truth.

The baselines run in simulated time, in the backtest's loop: joiner and trainer of the live run in one process. They learn
from the whole recording, batch stage included, as one continuous stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.backtest.delays import Delays
from rillet.backtest.events import load_events
from rillet.backtest.loop import baseline_scorers, one_thread, run_scorers
from rillet.backtest.settings import Setup
from rillet.jobs.config import RilletConfig
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

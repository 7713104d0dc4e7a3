"""The loop of a backtest: request, score, action, join, train, publish, apply; all at their event times.

Between two publications what is served does not change, so the requests of such a stretch are scored together. At its
end come, in this order: the scores of its requests by what was served until then; training on every block that had
become visible; publication. A request is therefore always scored by a model that knew none of its labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rillet.backtest.delays import Delays
from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times, under_spec
from rillet.backtest.names import BASELINES
from rillet.backtest.popularity import PopularityScorer, item_slot
from rillet.backtest.report import BacktestReport
from rillet.backtest.results import Scores, report_of
from rillet.backtest.scorers import FrozenScorer, ModelScorer, Scorer
from rillet.backtest.settings import Setup
from rillet.jobs.config import RilletConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.recordings import Event, Recording
from rillet.schemas import FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s

_DAY_MS = 86_400_000
#: the joiner's memory of waiting requests is bounded by the recording, not by a machine that serves others too
_MEMORY_BYTES = 4 << 30


def backtest(
    recording: Recording,
    config: RilletConfig,
    *,
    spec: FeatureSpec | None = None,
    delays: Delays | None = None,
    requests: int | None = None,
    judge_from: float = 0.2,
    baselines: bool | Collection[str] = True,
    on_progress: Callable[[int], None] = lambda done: None,
) -> BacktestReport:
    """Runs a recording through the loop of one configuration, in this process.

    :param spec: what is learned from; None is the recording's. Only its histories may differ, and what
        changes no recorded column (:func:`rillet.backtest.specs.vary_spec`). Labels that judge are those of the recording's spec.
    :param delays: None takes the configuration's.
    :param requests: only the first so many; None for all.
    :param judge_from: share of the requests after which scores are judged, and at which the frozen model stops learning.
    :param baselines: which of ``BASELINES`` to score by as well; True for all.
    :param on_progress: called now and then with the requests that are through.
    :returns: figures are NaN of a task whose label windows were all open when the recording ended.
    :raises RecordingError: the recording is damaged.
    :raises ModelError: the model cannot be built or no longer learns.
    """
    setup = Setup(config, spec or recording.info.spec, delays or Delays.of(config))
    events = load_events(recording, requests)
    judged_from_ms = judged_from(request_times(events), judge_from)
    names = BASELINES if baselines is True else tuple(baselines or ())
    with one_thread():
        scores = score_events(events, recording.info.spec, setup, names, judged_from_ms, on_progress)
    expected = label_events(events, recording.info.spec)
    last_ms = last_event(recording, events, requests)
    return report_of(recording, expected, last_ms, judged_from_ms, {"model": setup}, {"model": [scores]})


@contextmanager
def one_thread() -> Iterator[None]:
    """Small dense computations on one thread of PyTorch: more threads wait for each other, longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Numbers below 1e-38 are computed in microcode, hundreds of times slower, and matter to no score.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def score_events(
    events: Sequence[Event],
    recorded: FeatureSpec,
    setup: Setup,
    baselines: Collection[str],
    judged_from_ms: int,
    on_progress: Callable[[int], None],
) -> Scores:
    """Runs events through the loop of one setup.

    :param recorded: the spec that they were recorded under.
    """
    model = ModelScorer(setup.spec, setup.config)
    scorers: dict[str, Scorer] = {"model": model, **baseline_scorers(setup, baselines, judged_from_ms)}
    logits, counters = run_scorers(events, recorded, setup, scorers, on_progress)
    return Scores(logits, counters, model.learned)


def run_scorers(
    events: Iterable[Event],
    recorded: FeatureSpec,
    setup: Setup,
    scorers: Mapping[str, Scorer],
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Float32s], dict[str, int]]:
    """Runs events through one joiner, and what it gives through any scorers; closes them, whatever happens.

    :param events: in order of event time.
    :param recorded: the spec that they were recorded under.
    :param on_progress: called now and then with the requests that are through.
    :returns: logits float32[impressions, T] by scorer, and the joiner's counters.
    """
    spec = setup.spec
    # A sample by score is by the scores of the model that learns from it.
    served_by = "model" if "model" in scorers and any(task.rate_by_score for task in spec.tasks) else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            join = SimulatedJoin(
                spec,
                replace(setup.config.joiner, memory_bytes=_MEMORY_BYTES),
                lateness_ms=setup.config.flink.lateness_ms,
                commit_ms=setup.delays.commit_ms,
                directory=Path(folder) / "joiner",
            )
            try:
                logits = _run(under_spec(events, recorded, spec), scorers, join, setup.delays, on_progress, served_by)
                return logits, join.counters
            finally:
                join.close()
    finally:
        for scorer in scorers.values():
            scorer.close()


def baseline_scorers(setup: Setup, baselines: Collection[str], judged_from_ms: int) -> dict[str, Scorer]:
    """Those of ``BASELINES`` that make sense beside the model.

    :param judged_from_ms: when the frozen one stops learning.
    """
    spec, config = setup.spec, setup.config
    scorers: dict[str, Scorer] = {}
    if "frozen" in baselines:
        # The newest publication that the first judged request can have been served by.
        scorers["frozen"] = FrozenScorer(ModelScorer(spec, config), judged_from_ms - setup.delays.apply_ms - 1)
    if "logistic" in baselines and config.model.kind != "logistic":
        scorers["logistic"] = ModelScorer(spec, replace(config, model=replace(config.model, kind="logistic")))
    if item_slot(spec) is not None:
        if "popularity" in baselines:
            scorers["popularity"] = PopularityScorer(spec)
        if "decayed_popularity" in baselines:
            scorers["decayed_popularity"] = PopularityScorer(spec, _DAY_MS)
    return scorers


def _run(
    events: Iterable[Event],
    scorers: Mapping[str, Scorer],
    join: SimulatedJoin,
    delays: Delays,
    on_progress: Callable[[int], None],
    served_by: str | None = None,
) -> dict[str, Float32s]:
    """:param served_by: scorer whose logits take the place of the recorded ones; None leaves those."""
    parts: dict[str, list[Float32s]] = {name: [] for name in scorers}
    #: events since the last publication
    waiting: list[Event] = []
    start_ms: int | None = None
    published_ms = 0
    done = 0

    def score() -> None:
        nonlocal done
        requests = [event for event in waiting if isinstance(event, FeatureEvent)]
        if requests:
            for name, scorer in scorers.items():
                parts[name].append(scorer.score(requests))
            done += len(requests)
            on_progress(done)
        row = 0
        for event in waiting:
            if served_by is None or not isinstance(event, FeatureEvent):
                join.take(event)
                continue
            logits = parts[served_by][-1][row : row + len(event.impression_ids)]
            row += len(logits)
            join.take(replace(event, served_logits=logits.reshape(-1)))
        waiting.clear()

    for event in events:
        now_ms = event.event_time_ms
        if start_ms is None:
            start_ms = published_ms = now_ms
        if isinstance(event, FeatureEvent):
            # Stretches without a request need no publication of their own.
            for at_ms, dense in delays.publications(start_ms, published_ms, now_ms):
                score()
                for visible_ms, block in join.visible(at_ms):
                    for scorer in scorers.values():
                        scorer.learn(visible_ms, block)
                for scorer in scorers.values():
                    scorer.publish(at_ms, dense=dense)
                published_ms = at_ms
        waiting.append(event)
    score()
    join.finish()
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}

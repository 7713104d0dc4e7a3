"""The loop of a backtest: request, score, action, join, train, publish, apply; all at their event times.

Between two publications what is served does not change, so the requests of such a stretch are scored together. At its
end come, in this order: the scores of its requests by what was served until then; training on every block that had
become visible; publication. A request is therefore always scored by a model that knew none of its labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rillet.audit.plain_join import PlainJoin
from rillet.backtest.joining import SimulatedJoin
from rillet.backtest.report import BacktestReport
from rillet.backtest.scorers import FrozenScorer, ModelScorer, PopularityScorer, Scorer
from rillet.jobs.config import RilletConfig
from rillet.recordings import Event, Recording
from rillet.schemas import FeatureEvent
from rillet.schemas.arrays import Float32s

#: events that the loop takes between two calls of ``on_progress``
_PROGRESS_EVENTS = 2_000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Delays:
    """How much event time passes between the steps of the loop; 0 is at once."""

    #: between two commits of the joiner
    commit_ms: int
    #: between two publications of rows, and of the network's weights (a multiple of it is used)
    publish_ms: int
    dense_ms: int
    #: from a publication to its being served
    apply_ms: int = 0

    def __post_init__(self) -> None:
        for name in ("commit_ms", "publish_ms", "dense_ms", "apply_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")

    @classmethod
    def of(cls, config: RilletConfig) -> Delays:
        """Those that the services of a configuration have."""
        return cls(
            commit_ms=config.flink.checkpoint_interval_ms,
            publish_ms=round(config.publisher.sparse_interval_s * 1000),
            dense_ms=round(config.publisher.dense_interval_s * 1000),
        )


def backtest(
    recording: Recording,
    config: RilletConfig,
    *,
    delays: Delays | None = None,
    requests: int | None = None,
    judge_from: float = 0.2,
    baselines: bool = True,
    on_progress: Callable[[int], None] = lambda done: None,
) -> BacktestReport:
    """Runs a recording through the loop of a configuration.

    :param delays: None takes the configuration's.
    :param requests: only the first so many; None for all.
    :param judge_from: share of the requests after which scores are judged, and at which the frozen model stops learning.
    :param baselines: also score by popularity, by popularity that fades within a day, and by the model frozen.
    :param on_progress: called now and then with the requests that are through.
    :raises RecordingError: the recording is damaged.
    :raises ModelError: the model cannot be built or no longer learns.
    """
    spec = recording.info.spec
    total = min(requests or recording.info.requests, recording.info.requests)
    events = _events(recording, total)
    features = [event for event in events if isinstance(event, FeatureEvent)]
    judged_from_ms = features[min(int(judge_from * total), len(features) - 1)].event_time_ms
    scorers: dict[str, Scorer] = {"model": ModelScorer(spec, config)}
    if baselines:
        scorers |= {
            "frozen": FrozenScorer(ModelScorer(spec, config), judged_from_ms),
            "popularity": PopularityScorer(spec),
            "decayed_popularity": PopularityScorer(spec, _DAY_MS),
        }
    with tempfile.TemporaryDirectory() as folder:
        join = SimulatedJoin(
            spec,
            config.joiner,
            lateness_ms=config.flink.lateness_ms,
            commit_ms=(delays or Delays.of(config)).commit_ms,
            directory=Path(folder) / "joiner",
        )
        try:
            logits = _run(events, scorers, join, delays or Delays.of(config), on_progress)
        finally:
            join.close()
    expected = PlainJoin(spec)
    for event in events:
        expected.add_feature(event) if isinstance(event, FeatureEvent) else expected.add_action(event)
    return BacktestReport(expected.result(), logits, judged_from_ms, join.counters)


def _events(recording: Recording, requests: int) -> list[Event]:
    """The first requests and their actions in order of event time; an action never before its request."""
    taken: set[str] = set()
    events: list[Event] = []
    for event in recording.events():
        if isinstance(event, FeatureEvent):
            if len(taken) == requests:
                continue
            taken.add(event.request_id)
        elif event.request_id not in taken:
            continue
        events.append(event)
    return events


def _run(
    events: Iterable[Event],
    scorers: Mapping[str, Scorer],
    join: SimulatedJoin,
    delays: Delays,
    on_progress: Callable[[int], None],
) -> dict[str, Float32s]:
    parts: dict[str, list[Float32s]] = {name: [] for name in scorers}
    waiting: list[FeatureEvent] = []
    served_from = dense_from = None
    done = 0

    def score() -> None:
        nonlocal done
        if waiting:
            for name, scorer in scorers.items():
                parts[name].append(scorer.score(waiting))
            done += len(waiting)
            waiting.clear()
            on_progress(done)

    for event in events:
        now_ms = event.event_time_ms
        if served_from is None or dense_from is None:
            served_from = dense_from = now_ms
        if now_ms >= served_from + delays.apply_ms + delays.publish_ms and (
            delays.publish_ms or isinstance(event, FeatureEvent)
        ):
            # Stretches without a request need no publication of their own.
            published_ms = now_ms - delays.apply_ms
            if delays.publish_ms:
                published_ms = served_from + (published_ms - served_from) // delays.publish_ms * delays.publish_ms
            score()
            dense = published_ms >= dense_from + delays.dense_ms
            for visible_ms, block in join.visible(published_ms):
                for scorer in scorers.values():
                    scorer.learn(visible_ms, block)
            for scorer in scorers.values():
                scorer.publish(published_ms, dense=dense)
            served_from = published_ms
            if dense:
                dense_from = published_ms
        if isinstance(event, FeatureEvent):
            waiting.append(event)
        join.take(event)
    score()
    join.finish()
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}

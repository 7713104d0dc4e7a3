"""What is learned, beside Vowpal Wabbit and River: quality as served, and rows per second of one core.

All go through one backtest: same recording, same joiner, same delays, each scored by what it had learned by then. A peer
takes final labels (label mode ``aligned``, one row per impression) or positives as they come (``positives_first``); the
corrections of ``immediate`` are rows that neither peer can take. Speed is rows learned and scored per second of CPU time:
ours with everything around it (crosses, batches, publication, replica), a peer's with writing each row as its text line or
dictionary, as its users do, and without the pipe to its process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times
from rillet.backtest.loop import one_thread, run_scorers
from rillet.backtest.report import BacktestReport
from rillet.backtest.scorers import ModelScorer, Scorer
from rillet.backtest.settings import Setup
from rillet.benchmarks.environment import library_versions
from rillet.benchmarks.names import PEER_LABELS
from rillet.benchmarks.peer_scorer import PeerScorer
from rillet.benchmarks.peers.rows import namespace
from rillet.benchmarks.result import BenchResult, Figure
from rillet.recordings import Recording
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.schemas.spec import LabelMode

JUDGE_FROM = 0.2
OURS = "rillet"
#: {crosses} stands for those of the feature spec, as -q with the letters of their slots
VOWPAL_WABBIT = (
    "-b 24",
    "-b 24 {crosses}",
    "-b 24 {crosses} -l 0.1",
    "-b 24 {crosses} -l 2",
    "-b 24 {crosses} --coin",
    "-b 24 {crosses} --ftrl",
    "-b 24 -q ::",
)
#: null stands for the crosses of the feature spec
RIVER = (
    '{"optimizer": "sgd", "lr": 0.05, "crosses": null}',
    '{"optimizer": "adagrad", "lr": 0.1, "crosses": null}',
    '{"optimizer": "ftrl", "lr": 0.1, "crosses": null}',
)


@dataclass(frozen=True, slots=True)
class Peer:
    """One point of a peer's grid."""

    library: str
    module: str
    options: str
    labels: LabelMode

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.library} {self.options} ({self.labels})"


class Timed:
    """Another scorer with the CPU time of this process that it took."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.cpu_s = 0.0
        self.rows = 0

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        begin_s = time.process_time()
        self._scorer.learn(visible_ms, block)
        self.cpu_s += time.process_time() - begin_s
        self.rows += len(block)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        begin_s = time.process_time()
        self._scorer.publish(now_ms, dense=dense)
        self.cpu_s += time.process_time() - begin_s

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        begin_s = time.process_time()
        logits = self._scorer.score(requests)
        self.cpu_s += time.process_time() - begin_s
        self.rows += len(logits)
        return logits

    def close(self) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        self._scorer.close()

    def rows_per_second(self) -> float:
        """Rows learned and scored per second of CPU time."""
        return self.rows / max(self.cpu_s, 1e-9)


#: the lines of each library that are tried, and the module of ``benchmarks/peers`` that takes them
GRIDS: dict[str, tuple[str, ...]] = {"vw": VOWPAL_WABBIT, "river": RIVER}
_MODULES = {"vw": "vowpal_wabbit", "river": "river"}


def peers_of(
    spec: FeatureSpec,
    libraries: Sequence[str],
    grids: Mapping[str, Sequence[str]] = GRIDS,
    modes: Sequence[LabelMode] = PEER_LABELS,
) -> list[Peer]:
    """The grids of the libraries for a feature spec, in each label mode.

    :param grids: the lines of each library, with the places for crosses that those of :data:`GRIDS` have.
    """
    index = {slot.name: at for at, slot in enumerate(spec.slots)}
    crosses = [tuple(index[name] for name in cross.slots) for cross in spec.crosses]
    letters = " ".join(f"-q {namespace(left)}{namespace(right)}" for left, right in crosses)
    lines = {
        "vw": [" ".join(line.replace("{crosses}", letters).split()) for line in grids["vw"]],
        "river": [line.replace("null", json.dumps(crosses)) for line in grids["river"]],
    }
    return [
        Peer(library, _MODULES[library], options, labels)
        for library in libraries
        for labels in modes
        # Without crosses some lines of a grid are the same.
        for options in dict.fromkeys(lines[library])
    ]


def learning(
    recordings: Mapping[str, tuple[Recording, Setup]],
    python: Path,
    *,
    libraries: Sequence[str] = ("vw", "river"),
    grids: Mapping[str, Sequence[str]] = GRIDS,
    labels: Sequence[LabelMode] = PEER_LABELS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_figure: Callable[[Figure], None] = lambda figure: None,
) -> BenchResult:
    """Backtests ours and the peers' grids over each recording.

    :param recordings: by name, each with the setup of ours; peers get its delays.
    :param python: interpreter of the peers' environment.
    :param grids: see :func:`peers_of`.
    :param labels: the label modes in which peers learn.
    :param on_progress: called with the requests scored so far in all runs, and how many there will be.
    :param on_figure: called with each figure as soon as it is known.
    :returns: ratios ``auc_above_NAME`` (a difference) and ``rows_vs_NAME`` compare with the best AUC of each grid and with
        the speed of that one; the smallest of the recordings' figures.
    :raises BacktestError: a peer's process ended.
    """
    figures: list[Figure] = []
    ratios: dict[str, list[float]] = {}
    peers = {name: peers_of(setup.spec, libraries, grids, labels) for name, (_, setup) in recordings.items()}
    total = sum((1 + len(peers[name])) * recording.info.requests for name, (recording, _) in recordings.items())
    done = 0

    def run(name: str, judge: _Judge, setup: Setup, scorer: Timed | PeerScorer) -> tuple[float, float]:
        nonlocal done
        auc = judge.auc(setup, scorer, lambda requests: on_progress(done + requests, total))
        done += judge.requests
        speed = scorer.rows_per_second()
        for figure in (Figure(name, "auc", auc, "as served"), Figure(name, "speed", speed, "rows/s of one core")):
            figures.append(figure)
            on_figure(figure)
        return auc, speed

    for name, (recording, setup) in recordings.items():
        judge = _Judge(recording)
        with one_thread():
            auc, speed = run(f"{name}: {OURS}", judge, setup, Timed(ModelScorer(setup.spec, setup.config)))
        best: dict[str, tuple[float, float]] = {}
        for peer in peers[name]:
            tasks = tuple(replace(task, labels=peer.labels) for task in setup.spec.tasks)
            theirs = replace(setup, spec=replace(setup.spec, tasks=tasks))
            scorer = PeerScorer(python, peer.module, peer.options, theirs.spec)
            found = run(f"{name}: {peer.name}", judge, theirs, scorer)
            best[peer.library] = max(best.get(peer.library, found), found)
        for library, (peer_auc, peer_speed) in best.items():
            ratios.setdefault(f"auc_above_{library}", []).append(auc - peer_auc)
            ratios.setdefault(f"rows_vs_{library}", []).append(speed / peer_speed)
    smallest = {key: min(values) for key, values in ratios.items()}
    return BenchResult("learning", figures, smallest, library_versions(python, libraries))


class _Judge:
    """One recording, decoded and labelled once."""

    def __init__(self, recording: Recording) -> None:
        self._recorded = recording.info.spec
        self._events = load_events(recording)
        times = request_times(self._events)
        self.requests = len(times)
        self._judged_from_ms = judged_from(times, JUDGE_FROM)
        self._expected = label_events(self._events, self._recorded)
        self._last_ms = last_event(recording, self._events)

    def auc(self, setup: Setup, scorer: Scorer, on_progress: Callable[[int], None]) -> float:
        """As served, of the first task, after the first fifth of the requests."""
        logits, _ = run_scorers(self._events, self._recorded, setup, {OURS: scorer}, on_progress)
        report = BacktestReport(self._expected, logits, self._judged_from_ms, self._last_ms)
        return report.influence(OURS, "auc").value

"""What absurd rows among the examples cost in quality as served, and whether every one of them becomes a dead letter.

    python -m experiments.absurd_rows --requests 20000 --share 0.01

Two models learn from a drifting synthetic shop, one from its rows as they are, one with absurd copies of rows mixed in:
dense values that are not finite, that overflow, or that are merely far out of range. ``--within VALUE`` mixes in a value that
no bound refuses, to see what the learned range of the features does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rillet.backtest import Delays
from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times
from rillet.backtest.loop import one_thread, run_scorers
from rillet.backtest.report import BacktestReport
from rillet.backtest.results import Scores, report_of
from rillet.backtest.scorers import ModelScorer
from rillet.backtest.settings import Setup
from rillet.jobs.config import RilletConfig
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic
from rillet.schemas import ExampleBlock, FeatureSpec
from rillet.trainer import BadRecord
from rillet.trainer.batch import row_alone

ABSURD = (3e38, -3e38, 1e30, 1e19, -1e12, 1e8, np.inf, -np.inf, np.nan)
#: longer than any row waits for its batch
_LONG_MS = 3_600_000


class MixedScorer(ModelScorer):
    """The production path, with absurd copies of rows sent after the records that they were copied from."""

    def __init__(self, spec: FeatureSpec, config: RilletConfig, *, share: float, within: float | None) -> None:
        super().__init__(spec, config)
        self.mixed = 0
        self.refused: list[BadRecord] = []
        self._rng = np.random.default_rng(1)
        self._share, self._within = share, within
        self.trainer.train = partial(self.trainer.train, on_refused=self.refused.append)  # type: ignore[method-assign]

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """Takes a block, and now and then an absurd row after it."""
        super().learn(visible_ms, block)
        for row in np.flatnonzero(self._rng.random(len(block)) < self._share).tolist():
            super().learn(visible_ms, self._absurd(row_alone(block, row)))
            self.mixed += 1

    def close(self) -> None:
        """Screens what has come since the last publication, too."""
        self.trainer.train(self._visible_ms + _LONG_MS, more=False)
        super().close()

    def _absurd(self, row: ExampleBlock) -> ExampleBlock:
        kind = int(self._rng.integers(len(ABSURD)))
        if self._within is not None:
            return replace(row, dense=np.full_like(row.dense, self._within * (-1.0) ** kind))
        return replace(row, dense=np.full_like(row.dense, ABSURD[kind]))


def run(
    recording: Recording, config: RilletConfig, share: float, within: float | None
) -> tuple[BacktestReport, MixedScorer]:
    """A report of the scorers ``model`` and ``mixed``, and the latter."""
    spec = recording.info.spec
    setup = Setup(config, spec, Delays.of(config))
    events = load_events(recording)
    clean, mixed = ModelScorer(spec, config), MixedScorer(spec, config, share=share, within=within)
    with one_thread():
        logits, joined = run_scorers(events, spec, setup, {"model": clean, "mixed": mixed})
    judged_from_ms = judged_from(request_times(events), 0.2)
    expected, scores = label_events(events, spec), Scores(logits, joined, clean.learned)
    report = report_of(
        recording, expected, last_event(recording, events), judged_from_ms, {"model": setup}, {"model": [scores]}
    )
    return report, mixed


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both and prints AUC, what was mixed in and what was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--gap-ms", type=float, default=200.0, help="mean time between two requests")
    parser.add_argument("--within", type=float, help="mix in this value instead")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--unscreened", action="store_true", help="no bound for dense values but finiteness")
    options = parser.parse_args(arguments)
    config = RilletConfig(spec=Path("unused"))
    trainer = replace(config.trainer, batch_size=options.batch_size, max_dense=1e7)
    if options.unscreened:
        trainer = replace(trainer, max_dense=np.inf, max_dense_spreads=np.inf)
    config = replace(config, trainer=trainer)
    with tempfile.TemporaryDirectory() as folder:
        generate_synthetic(Path(folder) / "shop", requests=options.requests, config=ShopConfig(gap_ms=options.gap_ms))
        recording = Recording(Path(folder) / "shop")
        report, scorer = run(recording, config, options.share, options.within)
        for index, task in enumerate(recording.info.spec.tasks):
            clean, mixed = (report.estimate(name, "auc", index).value for name in ("model", "mixed"))
            print(f"{task.name}: AUC as served {clean:.4f}, with absurd rows {mixed:.4f}: {mixed - clean:+.4f}")
        print(f"{scorer.mixed} absurd rows mixed in, {len(scorer.refused)} dead letters; {scorer.trainer.counters}")


if __name__ == "__main__":
    main()

"""What absurd rows among the examples cost in quality as served, and whether every one of them becomes a dead letter.

    python -m experiments.absurd_rows --requests 20000 --share 0.01

The backtest on a drifting synthetic shop, once as it is and once with absurd copies of its rows mixed in: dense values that
are not finite, that overflow, or that are merely far out of range. ``--within VALUE`` mixes in
a value that no bound refuses, to see what clipping alone does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rillet.backtest import backtest, loop
from rillet.backtest.scorers import ModelScorer
from rillet.jobs.config import RilletConfig
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic
from rillet.schemas import ExampleBlock, FeatureSpec
from rillet.trainer import BadRecord
from rillet.trainer.batch import row_alone

ABSURD = (3e38, -3e38, 1e30, 1e19, -1e12, 1e8, np.inf, -np.inf, np.nan)


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

    def _absurd(self, row: ExampleBlock) -> ExampleBlock:
        kind = int(self._rng.integers(len(ABSURD)))
        if self._within is not None:
            return replace(row, dense=np.full_like(row.dense, self._within * (-1) ** kind))
        return replace(row, dense=np.full_like(row.dense, ABSURD[kind]))


def run(
    recording: Recording, config: RilletConfig, share: float, within: float | None
) -> tuple[list[float], MixedScorer]:
    """AUC as served of each task, and the scorer."""
    made: list[MixedScorer] = []

    def scorer(spec: FeatureSpec, config: RilletConfig) -> MixedScorer:
        made.append(MixedScorer(spec, config, share=share, within=within))
        return made[-1]

    loop.ModelScorer = scorer  # type: ignore[misc, assignment]
    report = backtest(recording, config, baselines=False)
    tasks = range(len(recording.info.spec.tasks))
    return [report.estimate("model", "auc", task).value for task in tasks], made[0]


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
    max_dense = np.inf if options.unscreened else config.trainer.max_dense
    config = replace(config, trainer=replace(config.trainer, batch_size=options.batch_size, max_dense=max_dense))
    with tempfile.TemporaryDirectory() as folder:
        generate_synthetic(Path(folder) / "shop", requests=options.requests, config=ShopConfig(gap_ms=options.gap_ms))
        recording = Recording(Path(folder) / "shop")
        for share in (0.0, options.share):
            aucs, scorer = run(recording, config, share, options.within)
            counters = scorer.trainer.counters
            names = [f"{task.name} {auc:.4f}" for task, auc in zip(recording.info.spec.tasks, aucs, strict=True)]
            print(f"share {share}: AUC {', '.join(names)}; {scorer.mixed} rows mixed in, {counters}")
            print(f"  {len(scorer.refused)} dead letters")


if __name__ == "__main__":
    main()

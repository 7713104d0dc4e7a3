"""What the standardisation of dense features costs or gains in quality as served.

    python -m experiments.dense_features --requests 20000

The shop's dense feature is the logarithm of a price, of order 1. Four models of the same requests: it as it is, not
standardised and standardised by the trainer; and the price itself, from 10 to 5,000, with transform ``log1p`` and without.
``--absurd SHARE`` makes so many of the prices 1e6 times what they are, in examples and in requests.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rillet.backtest import Delays
from rillet.backtest.events import judged_from, label_events, last_event, load_events, request_times
from rillet.backtest.loop import one_thread, run_scorers
from rillet.backtest.results import Scores, report_of
from rillet.backtest.scorers import ModelScorer
from rillet.backtest.settings import Setup
from rillet.jobs.config import RilletConfig
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic
from rillet.schemas import DenseFeature, ExampleBlock, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.schemas.spec import Transform


class PriceScorer(ModelScorer):
    """The production path, of another form of the shop's dense feature."""

    def __init__(
        self, spec: FeatureSpec, config: RilletConfig, transform: Transform, *, raw: bool, learned: bool, absurd: float
    ) -> None:
        """
        :param raw: the price itself instead of its logarithm.
        :param learned: standardised by what was learned; else not at all.
        :param absurd: share of the values that are 1e6 times too large.
        """
        super().__init__(replace(spec, dense=tuple(DenseFeature(name, transform) for name in spec.dense_names)), config)
        self._raw, self._absurd = raw, absurd
        self._rng = np.random.default_rng(2)
        if not learned:
            self.trainer.learner._dense_statistics = None
            self.trainer.learner.model.get_buffer("dense.scale").copy_(torch.ones(1))

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """Takes a block in its form of the feature."""
        super().learn(visible_ms, replace(block, dense=self._form(block.dense)))

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """Scores requests in its form of the feature."""
        return super().score([replace(request, dense=self._form(request.dense)) for request in requests])

    def _form(self, dense: Float32s) -> Float32s:
        values = np.clip(np.exp(5.4 + dense), 10, 5_000) if self._raw else dense
        factors = np.where(self._rng.random(len(dense)) < self._absurd, 1e6, 1.0)
        form: Float32s = (values * factors).astype(np.float32)
        return form


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the AUC of each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--gap-ms", type=float, default=200.0, help="mean time between two requests")
    parser.add_argument("--kind", default="deepfm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--absurd", type=float, default=0.0)
    options = parser.parse_args(arguments)
    config = RilletConfig(spec=Path("unused"))
    config = replace(
        config,
        model=replace(config.model, kind=options.kind),
        trainer=replace(config.trainer, max_dense=np.inf if options.absurd else config.trainer.max_dense),
    )
    with tempfile.TemporaryDirectory() as folder:
        shop = ShopConfig(gap_ms=options.gap_ms)
        generate_synthetic(Path(folder) / "shop", requests=options.requests, config=shop, seed=options.seed)
        recording = Recording(Path(folder) / "shop")
        spec = recording.info.spec
        setup, events = Setup(config, spec, Delays.of(config)), load_events(recording)
        forms: dict[str, tuple[Transform, bool, bool]] = {
            # The report knows the first by this name.
            "model": ("none", False, False),
            "logarithm, standardised": ("none", False, True),
            "price, log1p, standardised": ("log1p", True, True),
            "price, standardised": ("none", True, True),
        }
        scorers = {
            name: PriceScorer(spec, config, transform, raw=raw, learned=learned, absurd=options.absurd)
            for name, (transform, raw, learned) in forms.items()
        }
        with one_thread():
            logits, joined = run_scorers(events, spec, setup, scorers)
        expected, learned_rows = label_events(events, spec), next(iter(scorers.values())).learned
        scores = Scores(logits, joined, learned_rows)
        report = report_of(
            recording,
            expected,
            last_event(recording, events),
            judged_from(request_times(events), 0.2),
            {"model": setup},
            {"model": [scores]},
        )
        for name in scorers:
            found = (
                f"{task.name} {report.estimate(name, 'auc', index).value:.4f}" for index, task in enumerate(spec.tasks)
            )
            shown = "logarithm, not standardised" if name == "model" else name
            print(f"{shown:30} AUC as served: {', '.join(found)}")


if __name__ == "__main__":
    main()

"""How much quality a longer interval of publication costs: figure 8 of the Monolith paper in kind, on data that drifts.

    python -m experiments.publication_interval --json FILE --picture FILE.svg

A synthetic shop whose tastes and items change within hours, three days of event time. Rows are published every 10 s, 1 min,
10 min, 1 h and 24 h of event time, the network as often but not within a minute, and scores are judged over the second
half. What is trained on is the same in every run: publications change only how old the served weights are, so the
differences are paired and sharp.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from rillet.backtest import Delays, compare, grid
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import Setup
from rillet.benchmarks.result import BenchResult, Figure
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_spec
from rillet.trainer.quality import Estimate

INTERVALS = {"10s": 10_000, "1m": 60_000, "10m": 600_000, "1h": 3_600_000, "24h": 86_400_000}
DAYS = 3
#: tastes lose half of their memory within hours, and a third of the items change every hour
SHOP = ShopConfig(
    users=1_000, items=300, segments=8, categories=12, taste=1.2, drift_per_hour=1.2, renewed_per_hour=0.3
)


def setups() -> dict[str, Setup]:
    """One run per interval; they differ in nothing else."""
    base = grid(synthetic_spec(), {"model": {"dim": 8}}, [])["model"]
    return {
        name: replace(
            base, delays=Delays(1_000, interval, max(interval, 60_000)), settings={"publication interval": name}
        )
        for name, interval in INTERVALS.items()
    }


def run(requests: int, seed: int, workers: int | None) -> BacktestReport:
    """Makes the recording and runs all intervals over it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "synthetic"
        generate_synthetic(out, requests=requests, seed=seed, config=replace(SHOP, gap_ms=DAYS * 86_400_000 / requests))
        return compare(Recording(out), setups(), judge_from=0.5, baselines=["decayed_popularity"], workers=workers)


def results(report: BacktestReport) -> dict[str, Estimate]:
    """AUC by task and interval, and what each interval costs against the next shorter one."""
    found = {}
    for index, task in enumerate(report.expected.spec.tasks):
        for scorer in report.logits:
            found[f"{task.name}: {scorer}"] = report.estimate(scorer, "auc", index)
        for shorter, longer in pairwise(INTERVALS):
            found[f"{task.name}: {longer} - {shorter}"] = report.difference(longer, shorter, "auc", index)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all, prints the figures, writes them and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--picture", type=Path, help="where the picture goes, as SVG or PNG by its name")
    given = parser.parse_args(arguments)
    report = run(given.requests, given.seed, given.workers)
    found = results(report)
    for subject, estimate in found.items():
        print(f"{subject:32}{estimate.value:+9.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]")
    if given.picture is not None:
        report.plot_axis("publication interval").savefig(given.picture)
    if given.json is not None:
        figures = [
            Figure(subject, metric, value, "auc")
            for subject, estimate in found.items()
            for metric, value in (("auc", estimate.value), ("low", estimate.low), ("high", estimate.high))
        ]
        BenchResult("publication_interval", figures, versions={"numpy": np.__version__}).write(given.json)


if __name__ == "__main__":
    main()

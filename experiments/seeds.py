"""Whether intervals of differences hold: two settings that are the same, under other seeds, in many small backtests.

    python -m experiments.seeds --backtests 100 --json FILE

Each backtest has a recording of its own and runs either setting ``--runs`` times, every run of all backtests under seeds of
its own: the same few weights and samples in each would make one trial of a hundred. The interval of the difference should
cover zero in 95 of 100 or, since what the rows bring to the luck of a run is counted twice, a few more.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rillet.backtest import backtest, grid
from rillet.backtest.names import METRICS
from rillet.benchmarks.result import BenchResult, Figure
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_spec
from rillet.trainer.quality import Estimate

SHOP = ShopConfig(users=300, items=200, gap_ms=3_000)


def one(number: int, requests: int, runs: int) -> dict[str, Estimate]:
    """The difference of the settings in one backtest, by metric."""
    base = grid(synthetic_spec(), {"model": {"dim": 8, "hidden": [16]}}, [])["model"]
    first = 2 * runs * number
    setups = {"one": base.reseeded(first), "other": base.reseeded(first + runs)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "synthetic"
        generate_synthetic(out, requests=requests, seed=number, config=SHOP)
        recording = Recording(out)
        reports = {
            name: [
                backtest(recording, run.config, spec=run.spec, delays=run.delays, baselines=False)
                for run in map(setup.reseeded, range(runs))
            ]
            for name, setup in setups.items()
        }
    report = replace(
        reports["one"][0],
        setups=setups,
        logits={name: found[0].logits["model"] for name, found in reports.items()},
        repeats={name: tuple(run.logits["model"] for run in found[1:]) for name, found in reports.items()},
    )
    return {metric: report.difference("other", "one", metric) for metric in METRICS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all, prints how often zero was covered, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backtests", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=2, help="of each setting in a backtest")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first backtest; recording and seeds follow it"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args(arguments)
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        numbers = range(given.first, given.first + given.backtests)
        found = list(pool.map(partial(one, requests=given.requests, runs=given.runs), numbers))
    results: list[Figure] = []
    for metric in METRICS:
        differences = [differences[metric] for differences in found]
        covered = sum(not difference.excludes_zero for difference in differences)
        widths = [difference.high - difference.low for difference in differences]
        mean, median = float(np.mean(widths)), float(np.median(widths))
        print(f"{metric:20} zero covered in {covered} of {given.backtests}, width {mean:.4f} (median {median:.4f})")
        subject = f"difference of {metric}"
        results += [
            Figure(subject, "covered", covered, "backtests"),
            Figure(subject, "mean width", mean, metric),
            Figure(subject, "median width", median, metric),
        ]
    if given.json is not None:
        BenchResult("seeds", results, versions={"numpy": np.__version__}).write(given.json)


if __name__ == "__main__":
    main()

"""Whether learning lasts: optimisers of embedding rows over two weeks of event time that drift all the while.

    python -m experiments.drift --json FILE --picture FILE.svg

A synthetic shop whose tastes and items change within days. Every optimiser runs through the whole loop, over recordings of
several seeds; a day's figure is the mean over them. ``kl`` is the distance to the true probabilities (Kullback-Leibler,
nats per impression), ``auc_gap`` what the AUC is below that of the true probabilities: neither moves with how hard a day is.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rillet.backtest import Delays, compare, grid
from rillet.backtest.report import BacktestReport
from rillet.backtest.settings import Setup
from rillet.benchmarks.result import BenchResult, Figure
from rillet.recordings import Recording
from rillet.recordings.known_truth import read_truth
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_spec
from rillet.schemas.arrays import Float64s
from rillet.trainer.quality import auc, auc_within, calibration, normalised_entropy, sigmoid

DAY_MS = 86_400_000
#: tastes explain half of the variance of those three days later, an item is another one after four
SHOP = ShopConfig(
    users=2_000,
    items=400,
    segments=6,
    categories=12,
    candidates=5,
    taste=1.0,
    drift_per_hour=0.1,
    renewed_per_hour=0.01,
)
DELAYS = Delays(600_000, 1_800_000, 1_800_000)
METRICS = ("auc", "auc_within", "normalised_entropy", "calibration", "auc_gap", "kl")
#: tables of the configuration, by name
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adagrad, no decay": {"optimizer": "adagrad", "accumulator_half_life_s": 0.0},
    "adagrad, 1 day": {"optimizer": "adagrad", "accumulator_half_life_s": 86_400.0},
    "adagrad, 3 days": {"optimizer": "adagrad", "accumulator_half_life_s": 3 * 86_400.0},
    "lazy_adam": {"optimizer": "lazy_adam", "learning_rate": 0.004},
    "lazy_adam, amsgrad": {"optimizer": "lazy_adam", "learning_rate": 0.004, "amsgrad": True},
    "ftrl, 1 day": {"optimizer": "ftrl", "accumulator_half_life_s": 86_400.0, "l1": 0.5},
}


def setups(optimizers: Mapping[str, Mapping[str, Any]], more: Mapping[str, Any] | None = None) -> dict[str, Setup]:
    """One run per optimiser; they differ in nothing else.

    :param more: other tables of the configuration.
    """
    model = {"dim": 8, "hidden": [16]}
    return {
        name: replace(
            grid(synthetic_spec(), {"model": model, **(more or {}), "table": dict(table)}, [])["model"],
            delays=DELAYS,
            settings={"optimizer": name},
        )
        for name, table in optimizers.items()
    }


def run(
    runs: Mapping[str, Setup], *, requests: int, days: float, seed: int, workers: int | None = None
) -> dict[str, list[dict[str, float]]]:
    """Makes the recording and runs all setups over it; figures of the first task by setup and day."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "synthetic"
        generate_synthetic(out, requests=requests, seed=seed, config=replace(SHOP, gap_ms=days * DAY_MS / requests))
        report = compare(Recording(out), runs, judge_from=0.0, baselines=[], workers=workers)
        return days_of(report, read_truth(out)[:, 0].astype(np.float64))


def days_of(report: BacktestReport, truth: Float64s) -> dict[str, list[dict[str, float]]]:
    """Figures of every scorer on every whole day. Impressions whose label window was open at the end are left out."""
    expected = report.expected
    times = expected.feature_time_ms[expected.request]
    day = (times - times.min()) // DAY_MS
    judged = report.judged[:, 0]
    found: dict[str, list[dict[str, float]]] = {}
    for scorer, logits in report.logits.items():
        found[scorer] = []
        for number in range(round((times.max() - times.min()) / DAY_MS)):
            rows = np.flatnonzero(judged & (day == number))
            scores, labels, true = logits[rows, 0].astype(np.float64), expected.positive[rows, 0], truth[rows]
            best = auc(np.log(true / (1 - true)), labels).value
            value = auc(scores, labels).value
            found[scorer].append(
                {
                    "auc": value,
                    "auc_within": auc_within(scores, labels, expected.request[rows]).value,
                    "normalised_entropy": normalised_entropy(scores, labels).value,
                    "calibration": calibration(scores, labels).value,
                    "auc_gap": best - value,
                    "kl": divergence(true, sigmoid(scores)),
                }
            )
    return found


def divergence(true: Float64s, predicted: Float64s) -> float:
    """Mean Kullback-Leibler divergence of Bernoulli distributions, nats."""
    q = np.clip(predicted, 1e-9, 1 - 1e-9)
    return float(np.mean(true * np.log(true / q) + (1 - true) * np.log((1 - true) / (1 - q))))


def mean_days(runs: Sequence[dict[str, list[dict[str, float]]]]) -> dict[str, list[dict[str, float]]]:
    """The mean over recordings, by setup and day."""
    return {
        name: [
            {metric: float(np.mean([one[name][day][metric] for one in runs])) for metric in METRICS}
            for day in range(min(len(one[name]) for one in runs))
        ]
        for name in runs[0]
    }


def table(days: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The distance to the truth by day, and means of all figures from the second day on, as text."""
    lines = []
    for name, of_one in days.items():
        by_day = " ".join(f"{1000 * figures['kl']:5.1f}" for figures in of_one)
        means = " ".join(
            f"{np.mean([figures[metric] for figures in of_one[1:]]):8.4f}" for metric in METRICS if len(of_one) > 1
        )
        lines.append(f"{name:24}{by_day} | {means}")
    return "\n".join([f"{'':24}kl by day, 1/1000 nats | from day 2 on: {', '.join(METRICS)}", *lines])


def draw(days: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """The distance to the truth and the AUC gap by day, a line per optimiser."""
    from matplotlib.figure import Figure as Picture

    figure = Picture(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, metric, title in zip(
        axes, ("kl", "auc_gap"), ("distance to the truth (nats)", "AUC below the truth's"), strict=True
    ):
        for name, of_one in days.items():
            axis.plot(range(1, len(of_one) + 1), [figures[metric] for figures in of_one], label=name)
        axis.set(xlabel="day", title=title)
        axis.set_ylim(0, 1.15 * max(figures[metric] for of_one in days.values() for figures in of_one[1:]))
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize="small")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all, prints the table, writes figures and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--days", type=float, default=14.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    parser.add_argument("--only", nargs="+", help="names of optimisers; all by default")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--picture", type=Path, help="where the picture goes, as SVG or PNG by its name")
    given = parser.parse_args(arguments)
    runs = setups({name: settings for name, settings in OPTIMIZERS.items() if name in (given.only or OPTIMIZERS)})
    found = []
    for seed in given.seeds:
        found.append(run(runs, requests=given.requests, days=given.days, seed=seed, workers=given.workers))
        print(f"seed {seed}\n{table(found[-1])}", flush=True)
    days = mean_days(found)
    print(f"mean of {len(found)}\n{table(days)}")
    if given.picture is not None:
        draw(days, given.picture)
    if given.json is not None:
        figures = [
            Figure(f"{name}: day {number}", metric, value, metric)
            for name, of_one in days.items()
            for number, day in enumerate(of_one, 1)
            for metric, value in day.items()
            if math.isfinite(value)
        ]
        BenchResult("drift", figures, versions={"numpy": np.__version__}).write(given.json)


if __name__ == "__main__":
    main()

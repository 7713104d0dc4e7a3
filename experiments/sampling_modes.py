"""What is lost by learning from a tenth of the negatives: uniform, by the value of a slot, and by served score.

    python -m experiments.sampling_modes --json FILE

The whole loop in simulated time on the synthetic shop, every mode over the same recordings. All is judged on all impressions
of the last four fifths. The rates are of the sample that the joiner takes: each row of it stands for 1/rate impressions, and
by how many standard errors their sum differs from the number of impressions is told (``deviation``).
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rillet.backtest import backtest
from rillet.backtest.events import load_events
from rillet.benchmarks.result import BenchResult, Figure
from rillet.jobs.config import RilletConfig
from rillet.joiner.sampling import Columns, Sampling
from rillet.recordings import Recording
from rillet.recordings.known_truth import read_truth
from rillet.recordings.synthetic import ShopConfig, generate_synthetic, synthetic_spec
from rillet.schemas import FeatureEvent, FeatureSpec, Task
from rillet.schemas.arrays import Float32s, Float64s
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass, fit_mean_score
from rillet.schemas.spec import LabelMode
from rillet.trainer.config import ModelConfig

RATE, FLOOR = 0.1, 0.02
#: of the shop's 24 categories, which are equally common: half at one rate, half at another
BY_SLOT = RateBySlot("category", (RateClass(tuple(range(12)), 0.05), RateClass(tuple(range(12, 24)), 0.15)))
MODES = ("everything", "uniform", "by slot", "by score")
METRICS = ("calibration", "normalised_entropy", "auc")


def spec_of(mode: str, labels: LabelMode, mean_scores: Sequence[float]) -> FeatureSpec:
    """The shop's spec under a mode.

    :param mean_scores: of each task.
    """

    def task(one: Task, mean_score: float) -> Task:
        one = replace(one, labels=labels, negative_rate=1.0 if mode == "everything" else RATE)
        if mode == "by slot":
            return replace(one, rate_by_slot=BY_SLOT)
        return replace(one, rate_by_score=RateByScore(mean_score, FLOOR)) if mode == "by score" else one

    spec = synthetic_spec()
    return replace(spec, tasks=tuple(map(task, spec.tasks, mean_scores)))


def run(mode: str, labels: LabelMode, seed: int, requests: int, shop: ShopConfig) -> list[Figure]:
    """The figures of one mode on one recording."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recording"
        generate_synthetic(out, requests=requests, seed=seed, config=shop)
        truth: Float64s = read_truth(out).astype(np.float64)
        spec = spec_of(mode, labels, [fit_mean_score(of_task, RATE, FLOOR) for of_task in truth.T])
        config = RilletConfig(spec=Path("synthetic.spec.toml"), model=ModelConfig(name="shop", dim=8, hidden=(32,)))
        recording = Recording(out)
        report = backtest(recording, config, spec=spec, baselines=False)
        served = report.logits["model"]
        kept, rates = _sample(recording, spec, served)
    results = []
    for task, name in enumerate(one.name for one in spec.tasks):
        subject = f"{mode}, {labels}, seed {seed}"
        values = {metric: report.estimate("model", metric, task).value for metric in METRICS}
        r = rates[:, task].astype(np.float64)
        values["mean_rate"] = float(r.mean())
        values["rows"] = float(report.learned["model"][task].sum())
        error = math.sqrt(float(((1 - r) / r).sum()))
        values["deviation"] = float((kept[:, task] / r).sum() - len(r)) / error if error else 0.0
        results += [Figure(subject, f"{name}: {metric}", value, "") for metric, value in values.items()]
    return results


def _sample(recording: Recording, spec: FeatureSpec, served: Float32s) -> tuple[Float64s, Float32s]:
    """Whether each impression is kept as a negative, and at which rate, [M, T]; by the scores it was served with."""
    sampling, tasks, row = Sampling(spec), list(range(len(spec.tasks))), 0
    kept, rates = [], []
    for event in load_events(recording):
        if isinstance(event, FeatureEvent):
            n = len(event.impression_ids)
            event = replace(event, served_logits=served[row : row + n].reshape(-1))
            row += n
            kept.append(sampling.of_request(event, tasks).T.astype(np.float64))
            columns = Columns.of(event)
            rates.append(np.stack([sampling.rates(np.full(n, task), columns) for task in tasks], axis=1))
    return np.concatenate(kept), np.concatenate(rates)


def table(results: Sequence[Figure]) -> str:
    """Means over seeds, and of the normalised entropy over that of everything, with its standard error."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for figure in results:
        mode, labels, seed = figure.subject.split(", ")
        task, _, metric = figure.metric.partition(": ")
        found[labels, task][metric][f"{mode}, {seed}"] = figure.value
    names = ("rows", "mean_rate", "calibration", "auc")
    lines = [
        f"{'labels':17}{'task':7}{'mode':12}" + "".join(f"{name:>13}" for name in names) + "   entropy / everything's"
    ]
    for (labels, task), metrics in found.items():
        for mode in MODES:
            of = {name: _of_mode(metrics[name], mode) for name in (*names, "normalised_entropy")}
            if not len(of["rows"]):
                continue
            cells = "".join(f"{np.mean(of[name]):13.4g}" for name in names)
            base = _of_mode(metrics["normalised_entropy"], MODES[0])
            ratio = of["normalised_entropy"] / base if len(base) == len(of["rows"]) else np.array([math.nan])
            error = np.std(ratio, ddof=1) / math.sqrt(len(ratio)) if len(ratio) > 1 else math.nan
            lines.append(f"{labels:17}{task:7}{mode:12}{cells}   {np.mean(ratio):.4f} +- {error:.4f}")
    deviations = [abs(figure.value) for figure in results if figure.metric.endswith("deviation")]
    return "\n".join([*lines, f"largest deviation of a rate: {max(deviations):.2f} standard errors"])


def _of_mode(values: dict[str, float], mode: str) -> Float64s:
    """By seed, in their order."""
    return np.array([value for key, value in values.items() if key.startswith(f"{mode}, ")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all, prints the table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", nargs="+", default=["immediate"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--still", action="store_true", help="a shop in which nothing changes")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args(arguments)
    shop = ShopConfig(drift_per_hour=0, renewed_per_hour=0) if given.still else ShopConfig()
    runs = [
        (mode, labels, seed, given.requests, shop)
        for labels, seed, mode in product(given.labels, range(given.seeds), given.modes)
    ]
    results: list[Figure] = []
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        for found in pool.map(run, *zip(*runs, strict=True)):
            results += found
            if given.json is not None:
                BenchResult("sampling_modes", results, versions={"numpy": np.__version__}).write(given.json)
    print(table(results))


if __name__ == "__main__":
    main()

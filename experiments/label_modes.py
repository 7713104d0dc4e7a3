"""What a trainer learns from each label mode: cold starts and ramps of traffic, short and long label windows.

    python -m experiments.label_modes --json FILE

Simulated users watch films with known rates (``rillet.recordings.films``); each mode runs the whole loop over the same
events. Calibration is the mean score over the mean true rate, so that no chance of labels is in it.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import numpy as np

from rillet.backtest import Delays, backtest
from rillet.benchmarks.result import BenchResult, Figure
from rillet.jobs.config import RilletConfig
from rillet.recordings import Recording
from rillet.recordings.films import FilmsConfig, films_spec, generate_films
from rillet.recordings.known_truth import read_truth
from rillet.schemas.arrays import Bools, Float64s
from rillet.schemas.spec import LabelMode
from rillet.trainer.config import ModelConfig
from rillet.trainer.quality import auc, sigmoid

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0


@dataclass(frozen=True)
class Scenario:
    """Traffic, how late actions come, and the parts of it that are judged, in seconds after the beginning."""

    name: str
    window_ms: int
    films: FilmsConfig
    delays: Delays
    span_s: float
    parts: dict[str, tuple[float, float]]

    @property
    def requests(self) -> int:
        """Mean number of requests in the scenario's time."""
        steps = np.linspace(0, self.span_s, 10_000)
        return round(float(np.mean([self.films.traffic(at) for at in steps])) * self.span_s)


def scenarios() -> list[Scenario]:
    """Cold start and ramp, for a window of ten minutes and for one of three days with actions as late."""
    short, long = 600_000, 3 * 86_400_000
    soon = FilmsConfig()
    minutes = FilmsConfig(slowest_ms=300_000, requests_per_s=0.5, peak=3.0, ramp_start_s=HOUR_S)
    days = FilmsConfig(slowest_ms=2 * 86_400_000, requests_per_s=0.02)
    warm_s = 5 * DAY_S
    # Intervals of the default configuration; with fewer requests, publishing so often would only take time.
    often, rarely = Delays(5_000, 10_000, 60_000), Delays(60_000, 600_000, 600_000)
    return [
        Scenario(
            "cold start, 10 minutes",
            short,
            soon,
            often,
            15 * MINUTE_S,
            {"first 90 s": (0, 90), "90-120 s": (90, 120), "2-10 min": (120, 600), "12-15 min": (720, 900)},
        ),
        Scenario(
            "ramp, 10 minutes",
            short,
            minutes,
            replace(often, publish_ms=30_000),
            4 * HOUR_S,
            {"before": (0.5 * HOUR_S, HOUR_S), "up": (HOUR_S, 2 * HOUR_S), "down": (2 * HOUR_S, 3 * HOUR_S)}
            | {"after": (3 * HOUR_S, 4 * HOUR_S)},
        ),
        Scenario(
            "cold start, 3 days",
            long,
            days,
            rarely,
            6 * DAY_S,
            {"hours 1-6": (HOUR_S, 6 * HOUR_S), "day 1": (0, DAY_S), "day 3": (2 * DAY_S, 3 * DAY_S)}
            | {"day 6": (5 * DAY_S, 6 * DAY_S)},
        ),
        Scenario(
            "ramp, 3 days",
            long,
            replace(days, peak=3.0, ramp_start_s=warm_s),
            rarely,
            warm_s + 2 * HOUR_S,
            {"before": (warm_s - 0.5 * DAY_S, warm_s), "up": (warm_s, warm_s + HOUR_S)}
            | {"down": (warm_s + HOUR_S, warm_s + 2 * HOUR_S)},
        ),
    ]


def run(scenario: Scenario, mode: LabelMode, seed: int = 0) -> list[Figure]:
    """The figures of one mode in one scenario."""
    spec = films_spec(window_ms=scenario.window_ms, labels=mode)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "recording"
        generate_films(out, requests=scenario.requests, seed=seed, spec=spec, config=scenario.films)
        recording = Recording(out)
        config = RilletConfig(spec=Path("films.spec.toml"), model=ModelConfig(name="films", dim=8, hidden=(32,)))
        report = backtest(recording, config, delays=scenario.delays, baselines=False)
        truth = read_truth(out)[:, 0].astype(np.float64)
        sizes = [len(event.impression_ids) for event in recording.features()]
        times_ms = np.repeat([event.event_time_ms for event in recording.features()], sizes)
    after_s = (times_ms - scenario.films.start_ms) / 1000
    logits = report.logits["model"][:, 0].astype(np.float64)
    labels = report.expected.positive[:, 0]
    return [
        Figure(f"{scenario.name}: {mode}", f"{part}: {metric}", value, unit)
        for part, (begin, end) in scenario.parts.items()
        for metric, value, unit in _figures(logits, labels, truth, (after_s >= begin) & (after_s < end))
    ]


def _figures(logits: Float64s, labels: Bools, truth: Float64s, part: Bools) -> Iterator[tuple[str, float, str]]:
    scores, true = sigmoid(logits[part]), truth[part]
    liked = true > true.mean()
    yield "calibration", float(scores.mean() / true.mean()), "ratio"
    yield "liked", float(scores[liked].mean()), "probability"
    yield "other", float(scores[~liked].mean()), "probability"
    best = auc(true, labels[part]).value
    yield "auc_of_truth", auc(logits[part], labels[part]).value / best, "ratio"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all, prints the table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    given = parser.parse_args(arguments)
    runs = list(product(scenarios(), get_args(LabelMode)))
    with ProcessPoolExecutor(given.workers, get_context("spawn"), _prepare_process) as pool:
        results: list[Figure] = []
        for found in pool.map(run, *zip(*runs, strict=True)):
            results += found
            print(table(found, header=not results[len(found) :]), flush=True)
    if given.json is not None:
        BenchResult("label_modes", results, versions={"numpy": np.__version__}).write(given.json)


def table(results: Sequence[Figure], *, header: bool) -> str:
    """The figures as text: a line per scenario, part and mode."""
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for result in results:
        scenario, _, mode = result.subject.partition(": ")
        part, _, metric = result.metric.partition(": ")
        rows.setdefault((scenario, part, mode), {})[metric] = result.value
    metrics = ("calibration", "liked", "other", "auc_of_truth")
    title = f"{'scenario':24}{'part':12}{'labels':18}" + "".join(f"{metric:>14}" for metric in metrics)
    lines = [title] if header else []
    for (scenario, part, mode), found in rows.items():
        cells = "".join(f"{found.get(metric, math.nan):14.3f}" for metric in metrics)
        lines.append(f"{scenario:24}{part:12}{mode:18}{cells}")
    return "\n".join(lines)


def _prepare_process() -> None:
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()

"""Recordings that benchmarks learn from, by name and size; made once and kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rillet.backtest import Setup, grid
from rillet.backtest.errors import BacktestError
from rillet.demo.chosen import chosen_table
from rillet.recordings import Recording, RecordingError
from rillet.recordings.datasets import fetch_movielens
from rillet.recordings.movielens import convert_movielens
from rillet.recordings.synthetic import generate_synthetic

#: in event time, of all that is compared
DELAYS_MS = {"commit": 60_000, "publish": 600_000, "dense": 600_000}


def open_dataset(name: str, folder: Path) -> tuple[Recording, Setup]:
    """A recording, and what the demo learns from it with.

    :param name: ``movielens:REQUESTS`` or ``synthetic:REQUESTS``.
    :param folder: where recordings are kept.
    :raises BacktestError: another name.
    :raises DatasetError: MovieLens cannot be fetched.
    """
    dataset, _, requests = name.partition(":")
    if dataset not in ("movielens", "synthetic") or not requests.isdigit():
        raise BacktestError(f"{name!r} is no data set: expected movielens:REQUESTS or synthetic:REQUESTS")
    target = folder / f"{dataset}-{requests}"
    try:
        recording = Recording(target)
    except RecordingError:
        # Not there, or of another version.
        if dataset == "movielens":
            convert_movielens(fetch_movielens(), target, requests=int(requests))
        else:
            generate_synthetic(target, requests=int(requests))
        recording = Recording(target)
    tables = {"table": asdict(chosen_table(recording.info.dataset))}
    (setup,) = grid(recording.info.spec, tables, delays=DELAYS_MS).values()
    return recording, setup

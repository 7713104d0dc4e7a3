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

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
#: in event time, of all that is compared: about what the demo's intervals are at the speed at which it replays them. The
#: million ratings of MovieLens-1M are of three years; a batch of every minute would hold a few dozen rows
DELAYS_MS = {
    "movielens": {"commit": _HOUR_MS, "publish": 4 * _HOUR_MS, "dense": 12 * _HOUR_MS},
    "synthetic": {"commit": _MINUTE_MS, "publish": 10 * _MINUTE_MS, "dense": 10 * _MINUTE_MS},
}


def open_dataset(name: str, folder: Path) -> tuple[Recording, Setup]:
    """A recording, and what the demo learns from it with.

    :param name: ``movielens:REQUESTS`` or ``synthetic:REQUESTS``.
    :param folder: where recordings are kept.
    :raises BacktestError: another name.
    :raises DatasetError: MovieLens cannot be fetched.
    """
    dataset, _, requests = name.partition(":")
    if dataset not in DELAYS_MS or not requests.isdigit():
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
    (setup,) = grid(recording.info.spec, tables, delays=DELAYS_MS[dataset]).values()
    return recording, setup

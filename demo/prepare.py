"""What has to be there before the first process starts: the recording, an empty folder, and handlers of signals."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from rillet.demo.errors import DemoError
from rillet.demo.plan import BATCH_PER_LIVE
from rillet.recordings import Recording
from rillet.recordings.datasets import fetch_movielens
from rillet.recordings.movielens import convert_movielens
from rillet.recordings.synthetic import generate_synthetic

DEFAULT_REQUESTS = 50_000
_MARKER = ".rillet-demo"


def open_recording(given: Path | None, dataset: str, requests: int | None, folder: Path, console: Console) -> Recording:
    """Opens the given recording, or makes one of a data set.

    :param requests: how many are driven live, 50,000 by default; the batch stage's are made as well. A given recording
        stays as it is.
    :raises RecordingError: it cannot be read; DatasetError: it cannot be fetched.
    """
    if given is not None:
        return Recording(given)
    wanted = (requests or DEFAULT_REQUESTS) * (1 + BATCH_PER_LIVE)
    target = folder / "recording"
    if dataset == "synthetic":
        console.print(f"generating {wanted:,} synthetic requests", markup=False)
        generate_synthetic(target, requests=wanted)
    else:
        console.print("MovieLens-1M: fetching it unless it is there, and making requests of its ratings", markup=False)
        convert_movielens(fetch_movielens(), target, requests=wanted)
    return Recording(target)


def fresh_folder(folder: Path) -> Path:
    """Makes an empty folder, in place of one that an earlier demo left.

    :raises DemoError: the folder holds anything else, or cannot be written.
    """
    try:
        if folder.exists():
            if not (folder / _MARKER).exists() and any(folder.iterdir()):
                raise DemoError(f"{folder} holds files that no demo has written: choose another --out")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise DemoError(f"{folder}: cannot be written ({error.strerror}): choose another --out") from error
    return folder


def uninterrupted() -> AbstractContextManager[None]:
    """Ignores SIGINT and SIGTERM within the block, so that a second Ctrl-C does not interrupt the cleaning up."""
    return _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM)


def interruptible() -> AbstractContextManager[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    return _handled(signal.default_int_handler, signal.SIGTERM)


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)

"""Runs of a grid in processes of their own, with progress; whatever happens, none of them is left behind.

A process takes one run after another, so that imports and the decoded recording are paid for once. It ends when its
pipe does: also when the process that started it was killed.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from time import monotonic

from rillet.backtest.errors import BacktestError
from rillet.backtest.results import Scores
from rillet.backtest.settings import Setup
from rillet.recordings import Event
from rillet.schemas import FeatureSpec, RilletError

_PROGRESS_S = 0.2
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one process has to do for one variant under one seed."""

    key: tuple[str, int]
    directory: Path
    requests: int | None
    setup: Setup
    baselines: tuple[str, ...]
    judge_from: float

    @property
    def name(self) -> str:
        """For messages."""
        name, seed = self.key
        return f"{name} (run {seed + 1})" if seed else name


def score_here(run: Run, events: Sequence[Event], recorded: FeatureSpec, on_progress: Callable[[int], None]) -> Scores:
    """A run in this process.

    :param recorded: the spec that the events were recorded under.
    :param on_progress: called every 0.2 s with the requests that are through.
    :raises RilletError: of many kinds: the run failed.
    """
    # They take seconds to import. Who gives runs to other processes need not wait for that.
    from rillet.backtest.events import judged_from, request_times
    from rillet.backtest.loop import one_thread, score_events

    last = monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if monotonic() - last > _PROGRESS_S:
            last = monotonic()
            on_progress(done)

    with one_thread():
        judged_from_ms = judged_from(request_times(events), run.judge_from)
        return score_events(events, recorded, run.setup, run.baselines, judged_from_ms, progress)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Nearly everything that a backtest makes lives for long and is in no cycle: collections walk through it in vain."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Workers:
    """Processes that take runs; a context manager that ends them."""

    def __init__(self, runs: Sequence[Run], count: int) -> None:
        self._runs = runs
        # Not forked: torch and numba may have threads by now, and a fork would copy their locks as they are.
        context = get_context("spawn")
        self._processes: dict[Connection, BaseProcess] = {}
        # When it starts, it lets the signal through again that is held back below.
        ensure_running()
        # A terminal's Ctrl-C goes to all processes. These inherit that they do not hear it; whoever started them ends them.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(min(count, len(runs))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join(_JOIN_S)

    def results(self, on_progress: Callable[[int, int], None]) -> dict[tuple[str, int], Scores]:
        """Waits for all runs.

        :param on_progress: called with a run's index and the requests it is through.
        :raises BacktestError: a run failed, with its name; the others are not waited for.
        """
        results: dict[tuple[str, int], Scores] = {}
        waiting = iter(enumerate(self._runs))
        at_work: dict[Connection, Run] = {}

        def give(connection: Connection) -> None:
            following = next(waiting, None)
            if following is not None:
                at_work[connection] = following[1]
                try:
                    connection.send(following)
                except OSError:
                    raise self._ended(connection, following[1]) from None

        for connection in self._processes:
            give(connection)
        while at_work:
            ready = wait(list(at_work))
            for connection in [connection for connection in at_work if connection in ready]:
                run = at_work[connection]
                try:
                    kind, *content = connection.recv()
                except (EOFError, OSError):  # its end of the pipe was closed, or reset while it was written to
                    raise self._ended(connection, run) from None
                if kind == "progress":
                    on_progress(*content)
                elif kind == "error":
                    raise BacktestError(self._prefix(run) + content[0])
                else:
                    results[run.key] = content[0]
                    del at_work[connection]
                    give(connection)
        return results

    def _prefix(self, run: Run) -> str:
        return f"{run.name}: " if len(self._runs) > 1 else ""

    def _ended(self, connection: Connection, run: Run) -> BacktestError:
        process = self._processes[connection]
        process.join(_JOIN_S)
        return BacktestError(
            f"{self._prefix(run)}its process ended with {process.exitcode}; out of memory? Try fewer --workers"
        )


def _work(connection: Connection) -> None:
    """Takes runs until the pipe ends."""
    with rare_collections():
        _take_runs(connection)


def _take_runs(connection: Connection) -> None:
    from rillet.backtest.events import load_events, request_times
    from rillet.recordings import Recording

    loaded: tuple[tuple[Path, int | None], FeatureSpec, list[Event]] | None = None
    while True:
        try:
            index, run = connection.recv()
        except EOFError:
            return

        def progress(done: int, index: int = index) -> None:
            connection.send(("progress", index, done))

        try:
            key = (run.directory, run.requests)
            if loaded is None or loaded[0] != key:
                recording = Recording(run.directory)
                loaded = (key, recording.info.spec, load_events(recording, run.requests))
            _, recorded, events = loaded
            found = score_here(run, events, recorded, progress)
        except BrokenPipeError:
            return
        except RilletError as error:
            connection.send(("error", str(error)))
        except Exception as error:
            import traceback

            connection.send(("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        else:
            connection.send(("progress", index, len(request_times(events))))
            connection.send(("done", found))

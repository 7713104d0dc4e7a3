"""What a process of a grid does with the runs that it is given, without starting one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rillet.backtest import workers
from rillet.backtest.errors import BacktestError
from rillet.backtest.settings import grid
from rillet.backtest.workers import Run, Workers, _work, rare_collections
from rillet.recordings import Event
from rillet.schemas import FeatureSpec
from tests.backtest.events import SPEC, request, write_recording

REQUESTS = 12


def run_of(directory: Path, name: str = "model", seed: int = 0) -> Run:
    (setup,) = grid(SPEC).values()
    return Run((name, seed), directory, None, setup, (), 0.2)


class Pipe:
    """The end of a process: gives runs, then ends; keeps what is sent."""

    def __init__(self, runs: Sequence[Run], broken: bool = False) -> None:
        self._runs = list(enumerate(runs))
        self._broken = broken
        self.sent: list[Any] = []

    def recv(self) -> tuple[int, Run]:
        if not self._runs:
            raise EOFError
        return self._runs.pop(0)

    def send(self, message: Any) -> None:
        if self._broken:
            raise BrokenPipeError
        self.sent.append(message)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "r", [request(str(at), at) for at in range(REQUESTS)]).directory


def scores(by_name: dict[str, Exception | str]) -> Callable[..., str]:
    def score_here(run: Run, events: Sequence[Event], recorded: FeatureSpec, on_progress: Callable[[int], None]) -> str:
        assert recorded == SPEC
        found = by_name[run.name]
        if isinstance(found, Exception):
            raise found
        on_progress(len(events) // 2)
        return found

    return score_here


def test_a_process_takes_one_run_after_the_other_and_reads_the_recording_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rillet.backtest import events

    reads: list[object] = []
    load_events = events.load_events
    monkeypatch.setattr(events, "load_events", lambda *given: reads.append(given) or load_events(*given))
    monkeypatch.setattr(workers, "score_here", scores({"a": "scores of a", "b (run 2)": "scores of b"}))
    pipe = Pipe([run_of(directory, "a"), run_of(directory, "b", seed=1)])
    _work(pipe)  # type: ignore[arg-type]
    assert pipe.sent == [
        ("progress", 0, REQUESTS // 2),
        ("progress", 0, REQUESTS),
        ("done", "scores of a"),
        ("progress", 1, REQUESTS // 2),
        ("progress", 1, REQUESTS),
        ("done", "scores of b"),
    ]
    assert len(reads) == 1


def test_a_run_that_fails_is_told_and_a_fault_of_ours_with_its_traceback(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[str, Exception | str] = {"a": BacktestError("nothing to judge"), "b": ZeroDivisionError("of ours")}
    monkeypatch.setattr(workers, "score_here", scores(errors))
    pipe = Pipe([run_of(directory, "a"), run_of(directory, "b")])
    _work(pipe)  # type: ignore[arg-type]
    (_, told), (_, fault) = pipe.sent
    assert told == "nothing to judge"
    assert fault.startswith("ZeroDivisionError: of ours\nTraceback")
    assert "score_here" in fault


def test_a_process_ends_with_the_one_that_started_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "score_here", scores({"a": "scores"}))
    pipe = Pipe([run_of(directory, "a"), run_of(directory, "b")], broken=True)
    _work(pipe)  # type: ignore[arg-type]
    assert pipe.recv()[1].name == "b", "nothing more was taken"


def test_collections_are_rare_within_and_as_before_afterwards() -> None:
    of_suite = gc.get_threshold()  # rarer than Python's
    gc.set_threshold(700, 10, 10)
    try:
        before = gc.get_threshold()
        with suppress(KeyboardInterrupt), rare_collections():
            assert gc.get_threshold()[0] > 10 * before[0]
            raise KeyboardInterrupt
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*of_suite)


def test_a_run_here_tells_its_progress_and_gives_logits_of_every_impression(directory: Path) -> None:
    from rillet.backtest.events import load_events
    from rillet.recordings import Recording

    events = load_events(Recording(directory))
    found = workers.score_here(run_of(directory), events, SPEC, lambda done: None)
    (logits,) = found.logits.values()
    assert logits.shape == (2 * REQUESTS, len(SPEC.tasks))
    assert np.isfinite(logits).all()


def test_no_more_processes_are_started_than_there_are_runs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        started = 0
        exitcode = -9

        def start(self) -> None:
            Process.started += 1

        def terminate(self) -> None: ...

        def join(self, timeout_s: float) -> None: ...

    class Context:
        def Pipe(self) -> tuple[Any, Any]:
            import multiprocessing

            return multiprocessing.Pipe()

        def Process(self, **given: object) -> Process:
            return Process()

    monkeypatch.setattr(workers, "get_context", lambda kind: Context())
    with (
        Workers([run_of(directory, "a"), run_of(directory, "b", seed=2)], 8) as processes,
        pytest.raises(BacktestError, match=r"^(a|b \(run 3\)): its process ended with -9; out of memory\? Try fewer"),
    ):
        processes.results(lambda index, done: None)
    assert Process.started == 2

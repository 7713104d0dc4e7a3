"""The batcher: one call for what is queued, slices in between, faults contained, nothing left unanswered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from rillet.schemas import ClosedError
from rillet.serving.batcher import AutoBatcher
from rillet.serving.errors import DeadlineError, NotReadyError, RequestError, ScoringError
from rillet.serving.row_queue import Job, RowQueue


class _Harness:
    """A batcher whose time stands still unless moved, and whose every call is written down."""

    def __init__(self, *, max_batch_rows: int = 100, delay_s: float = 0.0) -> None:
        self.now = 0.0
        self.calls: list[list[str]] = []
        self.slices = 0
        self.slices_at_hand = 0
        self.answers: dict[str, str | RequestError] = {}
        self.batches: list[tuple[int, int]] = []
        self.failure: Exception | None = None
        self.ended_by: list[BaseException] = []
        self.during_compute: Callable[[], None] = lambda: None
        self.batcher: AutoBatcher[str, str] = AutoBatcher(
            compute=self._compute,
            background_slice=self._between,
            deliver=self._deliver,
            queue=RowQueue(1000, max_batch_rows, delay_s),
            clock=lambda: self.now,
            observer=self,
            on_failure=self.ended_by.append,
        )

    def submit(self, name: str, rows: int = 10, deadline: float = float("inf")) -> None:
        self.batcher.submit(
            Job(name, rows, lambda outcome: self.answers.__setitem__(name, outcome), self.now, deadline)
        )

    def batch(self, jobs: int, rows: int, seconds: float) -> None:
        self.batches.append((jobs, rows))

    def _compute(self, payloads: Sequence[str]) -> list[str]:
        self.calls.append(list(payloads))
        self.during_compute()
        if self.failure is not None:
            raise self.failure
        return [payload.upper() for payload in payloads]

    def _between(self) -> bool:
        self.slices += 1
        self.slices_at_hand -= 1
        return self.slices_at_hand > 0

    def _deliver(self, outcomes: list[tuple[Job[str, str], str | RequestError]]) -> None:
        for job, outcome in outcomes:
            job.done(outcome)


def test_what_is_queued_is_computed_in_one_call() -> None:
    harness = _Harness()
    for name in "abc":
        harness.submit(name)
    harness.batcher.step()
    assert harness.calls == [["a", "b", "c"]]
    assert harness.answers == {"a": "A", "b": "B", "c": "C"}
    assert harness.batches == [(3, 30)]


def test_requests_that_come_during_a_call_make_the_next_batch() -> None:
    harness = _Harness()
    harness.submit("a")
    harness.during_compute = lambda: harness.submit("b") if len(harness.calls) == 1 else None
    harness.batcher.step()
    harness.batcher.step()
    assert harness.calls == [["a"], ["b"]]


def test_nothing_is_computed_before_the_delay_is_over() -> None:
    harness = _Harness(delay_s=0.002)
    harness.submit("a")
    harness.now = 0.001
    harness.batcher.step()
    assert harness.calls == []
    harness.submit("b")
    harness.now = 0.002
    harness.batcher.step()
    assert harness.calls == [["a", "b"]]


def test_a_request_past_its_deadline_is_answered_without_being_computed() -> None:
    harness = _Harness()
    harness.submit("late", deadline=0.005)
    harness.submit("fine", deadline=0.5)
    harness.now = 0.01
    harness.batcher.step()
    assert harness.calls == [["fine"]]
    assert isinstance(harness.answers["late"], DeadlineError)
    assert "10.0 ms" in str(harness.answers["late"])


def test_one_slice_of_updates_runs_between_two_batches() -> None:
    harness = _Harness(max_batch_rows=10)
    for name in "abc":
        harness.submit(name)
    harness.slices_at_hand = 5
    harness.batcher.wake()
    seen = []
    for _ in range(3):
        harness.batcher.step()
        seen.append((len(harness.calls), harness.slices))
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_updates_go_on_without_requests_and_end_when_there_are_none() -> None:
    harness = _Harness()
    harness.slices_at_hand = 3
    harness.batcher.wake()
    for _ in range(6):
        harness.batcher.step()
    assert harness.slices == 3


def test_a_failing_model_answers_its_batch_with_500_and_the_next_batch_is_computed() -> None:
    harness = _Harness()
    harness.failure = ValueError("no such row")
    harness.submit("a")
    harness.batcher.step()
    harness.failure = None
    harness.submit("b")
    harness.batcher.step()
    assert isinstance(harness.answers["a"], ScoringError)
    assert "no such row" in str(harness.answers["a"])
    assert harness.answers["b"] == "B"


def test_closing_answers_a_batch_that_the_model_does_not_finish_and_does_not_wait_for_it() -> None:
    harness = _Harness()
    computing, release = threading.Event(), threading.Event()

    def hang() -> None:
        computing.set()
        release.wait(10)

    harness.during_compute = hang
    harness.submit("late", deadline=0.0)
    harness.submit("held")
    harness.batcher.start()
    assert computing.wait(5)
    harness.submit("queued")
    harness.batcher.close(0.05)
    assert isinstance(harness.answers["held"], ScoringError)
    assert isinstance(harness.answers["late"], RequestError)
    assert isinstance(harness.answers["queued"], NotReadyError)
    release.set()
    harness.batcher._thread.join(5)
    assert isinstance(harness.answers["held"], ScoringError), "answered twice"


def test_closing_lets_a_batch_finish_that_ends_in_time() -> None:
    harness = _Harness()
    computing = threading.Event()

    def slow() -> None:
        computing.set()
        threading.Event().wait(0.05)

    harness.during_compute = slow
    harness.batcher.start()
    harness.submit("a")
    assert computing.wait(5)
    harness.batcher.close(5.0)
    assert harness.answers["a"] == "A"


def test_closing_gives_up_what_waits_and_refuses_what_comes_later() -> None:
    harness = _Harness(delay_s=60.0)
    harness.batcher.start()
    harness.submit("a")
    harness.batcher.close()
    harness.batcher.close()
    assert isinstance(harness.answers["a"], NotReadyError)
    assert harness.calls == []
    with pytest.raises(ClosedError):
        harness.submit("d")


def test_a_batcher_that_was_never_started_may_be_closed() -> None:
    harness = _Harness()
    harness.submit("a")
    harness.batcher.close()
    assert isinstance(harness.answers["a"], NotReadyError)


def test_a_sleeping_batcher_wakes_for_a_request_for_updates_and_for_the_end() -> None:
    harness = _Harness()
    answered = threading.Event()
    sliced = threading.Event()
    harness.during_compute = answered.set
    harness.batcher.start()
    harness.submit("a")
    assert answered.wait(5)
    between = harness._between

    def noted() -> bool:
        sliced.set()
        return between()

    harness.batcher._background_slice = noted
    harness.batcher.wake()
    assert sliced.wait(5)
    harness.batcher.close(5.0)
    assert "batcher" not in [thread.name for thread in threading.enumerate()]


def test_a_deadline_shorter_than_the_batching_delay_is_met() -> None:
    harness = _Harness(delay_s=0.005)
    harness.submit("a", deadline=0.002)
    while not harness.answers:
        harness.batcher.step()
        harness.now += 0.0005
    assert harness.answers == {"a": "A"}


def test_a_request_that_has_no_result_takes_none_from_the_others_of_its_batch() -> None:
    harness = _Harness()
    refused = ScoringError("not finite")
    compute = harness._compute
    harness.batcher._compute = lambda payloads: [refused if one == "B" else one for one in compute(payloads)]
    for name in "abc":
        harness.submit(name)
    harness.batcher.step()
    assert harness.answers == {"a": "A", "b": refused, "c": "C"}


def test_a_step_that_does_not_end_is_told_and_so_is_a_thread_that_has_died() -> None:
    harness = _Harness()
    inside, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        go_on.wait(5)

    harness.during_compute = hang
    assert harness.batcher.stuck_s() == 0
    harness.batcher.start()
    harness.submit("a")
    assert inside.wait(5)
    harness.now = 7.5
    assert harness.batcher.stuck_s() == 7.5
    inside.clear()
    harness.submit("b")
    go_on.set()
    assert inside.wait(5), "the next step"
    assert harness.batcher.stuck_s() == 0
    harness.batcher.close(5.0)
    assert harness.batcher.stuck_s() == float("inf")


def test_a_thread_that_fails_answers_all_that_waits_and_tells_its_owner() -> None:
    harness = _Harness()
    inside, go_on = threading.Event(), threading.Event()
    broken = MemoryError("no room for the update")

    def background() -> bool:
        inside.set()
        go_on.wait(5)
        raise broken

    harness.batcher._background_slice = background
    harness.batcher.start()
    harness.batcher.wake()
    assert inside.wait(5)
    harness.submit("a")
    go_on.set()
    harness.batcher._thread.join(5)
    assert harness.ended_by == [broken]
    assert isinstance(harness.answers["a"], ScoringError)
    assert "no room for the update" in str(harness.answers["a"])
    with pytest.raises(ClosedError):
        harness.submit("b")
    assert harness.batcher.stuck_s() == float("inf")

"""The thread that follows the trainer: its failure is told, its end releases what it used."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rillet.jobs.serve import Follower


class _Model:
    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.running = threading.Event()

    def run(self, stop: threading.Event, wake: Callable[[], None]) -> None:
        self.running.set()
        wake()
        if self.failure is not None:
            raise self.failure
        stop.wait(10)


def test_closing_ends_the_thread_then_releases_once() -> None:
    model, calls = _Model(), []
    follower = Follower(
        model, lambda: calls.append("wake"), on_failure=lambda error: None, release=lambda: calls.append("release")
    )
    follower.start()
    assert model.running.wait(5)
    follower.close()
    follower.close()
    assert calls == ["wake", "release"]
    assert "replica" not in [thread.name for thread in threading.enumerate()]


def test_a_failure_reaches_the_owner() -> None:
    failed = threading.Event()
    errors: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        errors.append(error)
        failed.set()

    follower = Follower(_Model(OSError("a base that cannot be served")), lambda: None, on_failure=on_failure)
    follower.start()
    assert failed.wait(5)
    assert str(errors[0]) == "a base that cannot be served"
    follower.close()


def test_one_that_was_never_started_releases_what_it_holds() -> None:
    released: list[bool] = []
    Follower(_Model(), lambda: None, on_failure=lambda error: None, release=lambda: released.append(True)).close()
    assert released == [True]

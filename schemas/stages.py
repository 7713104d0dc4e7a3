"""What every stage of the loop has in common: one lifecycle, and one word for "full".

A stage is started and closed; in between a sink takes work (``submit``) and is flushed, a source gives work (``poll``).
Each of these words means the same everywhere, so that whoever wires stages together need not know which one it holds.
The idea is that of stream-processing strategies (getsentry/arroyo), reduced to what is needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from rillet.schemas.errors import RilletError

T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class BackpressureError(RilletError):
    """The stage is full. It took nothing of what was submitted: submit it again later, or count it as dropped."""


class ClosedError(RilletError):
    """The stage was closed; it takes and gives nothing more."""


class FlushTimeoutError(RilletError):
    """Not everything submitted is where it belongs yet. Nothing of it is lost: flush again."""


class Stage(Protocol):
    """Anything with threads, sockets or files of its own."""

    def start(self) -> None:
        """Begins to work; once. Constructors touch nothing outside the process."""

    def close(self) -> None:
        """Releases threads, sockets and files without waiting for delivery: what is still on its way is given up.

        Closing twice is closing once. A stage that was never started may be closed.
        """


class Sink(Stage, Protocol[T_contra]):
    """A stage that takes work."""

    def submit(self, item: T_contra, /) -> None:
        """Takes one item without blocking.

        :raises BackpressureError: there is no room for it.
        :raises ClosedError: after :meth:`close`.
        """

    def flush(self, timeout_s: float) -> None:
        """Returns once everything submitted before is where it belongs (acknowledged, written, scored).

        :raises FlushTimeoutError: it is not, within ``timeout_s``; what is missing stays queued.
        :raises RilletError: some of it was lost, such as refused by a broker for good.
        """


class Source(Stage, Protocol[T_co]):
    """A stage that gives work."""

    def poll(self, max_items: int, timeout_s: float) -> Sequence[T_co] | None:
        """Up to ``max_items`` in order, as soon as there is one; empty after ``timeout_s`` without any.

        :returns: None once there will never be more.
        :raises ClosedError: after :meth:`close`.
        """


class StageGroup:
    """Stages that work together: they start in order and end in reverse.

    >>> class Loud:
    ...     def __init__(self, name): self.name = name
    ...     def start(self): print("start", self.name)
    ...     def close(self): print("close", self.name)
    >>> group = StageGroup([Loud("log"), Loud("reader")])
    >>> group.start(); group.close()
    start log
    start reader
    close reader
    close log
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        """:param stages: each after those that it uses."""
        self._stages = stages

    def start(self) -> None:
        """Starts all; if one does not start, all are closed.

        :raises Exception: whatever kept the stage from starting.
        """
        try:
            for stage in self._stages:
                stage.start()
        except BaseException as error:
            try:
                self.close()
            except Exception as failure:
                error.add_note(f"and when closing what had started: {type(failure).__name__}: {failure}")
            raise

    def close(self) -> None:
        """Closes all, also when one of them raises; twice is once, and before :meth:`start` is allowed.

        :raises Exception: what a stage raised, after the others were closed.
        """
        failures: list[Exception] = []
        for stage in reversed(self._stages):
            try:
                stage.close()
            except Exception as error:
                failures.append(error)
        if failures:
            first, *others = failures
            for other in others:
                first.add_note(f"also when closing: {type(other).__name__}: {other}")
            raise first

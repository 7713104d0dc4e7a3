"""Requests waiting for the model, bounded and batched by rows. Pure logic: time is an argument, no lock, no thread.

Batching as in Zemanta's auto-batching server and Triton's dynamic batcher: what a batch costs depends on its rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rillet.serving.errors import QueueFullError, RequestError

P = TypeVar("P")
R = TypeVar("R")

#: A batch is taken this long before the first deadline in it, since a sleeping thread wakes up late.
_DEADLINE_MARGIN_S = 0.001


@dataclass(slots=True, eq=False)
class Job(Generic[P, R]):
    """One request in the queue. Times are seconds of the batcher's monotonic clock."""

    payload: P
    rows: int
    #: called once, by whoever delivers the batch, with the result or why there is none
    done: Callable[[R | RequestError], None]
    enqueued_s: float
    #: not computed from this time on; infinite if there is no deadline
    deadline_s: float = float("inf")


class RowQueue(Generic[P, R]):
    """First in, first out; closed to more while ``max_rows`` rows or more wait.

    >>> queue = RowQueue(max_rows=100, max_batch_rows=10, max_delay_s=0.0)
    >>> for name, rows in (("a", 4), ("b", 6), ("c", 5)):
    ...     queue.offer(Job(name, rows, done=print, enqueued_s=0.0))
    >>> batch, expired = queue.take(now_s=0.0)
    >>> [job.payload for job in batch], queue.rows
    (['a', 'b'], 5)
    """

    def __init__(self, max_rows: int, max_batch_rows: int, max_delay_s: float) -> None:
        self._jobs: deque[Job[P, R]] = deque()
        self._max_rows = max_rows
        self._max_batch_rows = max_batch_rows
        self._max_delay_s = max_delay_s
        self._due_s = float("inf")
        #: rows waiting now
        self.rows = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def offer(self, job: Job[P, R]) -> None:
        """Appends a job, whatever its rows, unless ``max_rows`` wait already: else small jobs would take what room is left,
        and large ones would hardly ever come in.

        :raises QueueFullError: see :meth:`check_room`; the queue is as before.
        """
        self.check_room()
        self._jobs.append(job)
        self.rows += job.rows
        self._due_s = min(self._due_s, self._due(job))

    def check_room(self) -> None:
        """:raises QueueFullError: ``max_rows`` wait, so any job would be refused now. It is a BackpressureError."""
        if self.rows >= self._max_rows:
            raise QueueFullError(f"{self.rows} rows are waiting, of max_queue_rows = {self._max_rows}; retry later")

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a batch should be taken: 0 when one is due, None when nothing waits.

        One is due when it is full, ``max_delay_s`` after its first job came, or shortly before a job's deadline.
        """
        if not self._jobs:
            return None
        if self.rows >= self._max_batch_rows:
            return 0.0
        return max(0.0, self._due_s - now_s)

    def take(self, now_s: float) -> tuple[list[Job[P, R]], list[Job[P, R]]]:
        """The next batch, and all jobs whose deadline has passed: none of them holds room any longer.

        A batch has at most ``max_batch_rows`` rows, or is one job that is larger by itself.
        """
        batch: list[Job[P, R]] = []
        expired: list[Job[P, R]] = []
        waiting: deque[Job[P, R]] = deque()
        rows = 0
        for job in self._jobs:
            if job.deadline_s <= now_s:
                expired.append(job)
            elif not waiting and (not batch or rows + job.rows <= self._max_batch_rows):
                batch.append(job)
                rows += job.rows
            else:
                waiting.append(job)
        self._jobs = waiting
        self.rows = sum(job.rows for job in waiting)
        self._due_s = min(map(self._due, waiting), default=float("inf"))
        return batch, expired

    def clear(self) -> list[Job[P, R]]:
        """Takes everything out, in order."""
        jobs = list(self._jobs)
        self._jobs.clear()
        self.rows = 0
        self._due_s = float("inf")
        return jobs

    def _due(self, job: Job[P, R]) -> float:
        return min(job.enqueued_s + self._max_delay_s, job.deadline_s - _DEADLINE_MARGIN_S)

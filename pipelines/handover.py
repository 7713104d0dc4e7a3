"""A snapshot of the table on its way from the training thread, which takes its parts, to a thread that writes them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from rillet.embeddings import TablePart, TableSnapshot

T = TypeVar("T")

#: parts, of some 8,192 rows, that wait to be written; none is taken while there are so many
_WAITING_PARTS = 16
#: how soon room for a part is noticed by who waits for the end of a write
_LOOK_S = 0.05


class _GivenUpError(Exception):
    """In the thread that writes: nobody hands parts over any more."""


class Handover(Generic[T]):
    """One snapshot that is being written. Called from the training thread.

    The thread is a daemon: a store that hangs must not keep the process alive, as an executor's thread would.
    """

    def __init__(self, name: str, table: TableSnapshot, write: Callable[[Iterator[TablePart]], T]) -> None:
        """Begins at once.

        :param name: of the thread.
        :param write: called in the thread with all parts of ``table``, for which it waits. After :meth:`give_up` asking
            for the next part raises an exception, which it must let through.
        """
        self.error: BaseException | None = None
        self._table = table
        self._write = write
        self._results: list[T] = []
        #: None ends it, an exception is raised by who takes it out
        self._queue: queue.Queue[TablePart | Exception | None] = queue.Queue(_WAITING_PARTS)
        self._all_handed_over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def hand_over(self, slice_s: float) -> None:
        """Takes parts for about so long, while there is room for them; a part more may be taken."""
        end = time.perf_counter() + slice_s
        while not self._all_handed_over and not self._queue.full():
            part = self._table.take()
            self._queue.put_nowait(part)
            self._all_handed_over = part is None
            if time.perf_counter() >= end:
                break

    def ended(self) -> bool:
        """Whether it is written or has failed."""
        return not self._thread.is_alive()

    def finish(self, timeout_s: float) -> bool:
        """Hands over all that is left and waits; returns whether it has ended in time."""
        end = time.perf_counter() + timeout_s
        while not self.ended():
            left_s = end - time.perf_counter()
            if left_s <= 0:
                return False
            self.hand_over(min(_LOOK_S, left_s))
            self._thread.join(min(_LOOK_S, left_s) if self._all_handed_over else 0.001)
        return True

    def outcome(self) -> T:
        """What ``write`` gave; to be asked once it has ended.

        :raises BaseException: what ``write`` raised.
        """
        self._table.close()
        if self.error is not None:
            raise self.error
        return self._results[0]

    def give_up(self) -> None:
        """The thread gets no more parts; the table copies nothing more."""
        self._table.close()
        while True:
            with suppress(queue.Full):
                self._queue.put_nowait(_GivenUpError("given up"))
                return
            with suppress(queue.Empty):
                self._queue.get_nowait()

    def _run(self) -> None:
        try:
            self._results.append(self._write(self._parts()))
        except BaseException as error:  # handed to whoever asks
            self.error = error

    def _parts(self) -> Iterator[TablePart]:
        while (part := self._queue.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

"""The files of the batch stage and the topic that goes on after them, as one source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rillet.schemas import ClosedError
from rillet.trainer import ExampleSource, Positions, RawRecord, ReadBlock


class BatchThenOnline:
    """A :class:`rillet.trainer.ExampleSource`: all of one source, then another."""

    def __init__(self, batch: ExampleSource, online: Callable[[], ExampleSource]) -> None:
        """
        :param batch: ends.
        :param online: makes the source of what follows. Called twice: before the batch stage, to find out whether what
            follows it is there, and when it is read. A batch stage takes hours, in which nothing may be fetched.
        """
        self._batch = batch
        self._make_online = online
        self._online: ExampleSource | None = None
        self._started = False

    @property
    def trouble(self) -> str:
        """What it is waiting for, empty while all is well."""
        return (self._online or self._batch).trouble

    def lag(self, positions: Positions) -> int:
        """Records after ``positions`` of the source that is being read."""
        return (self._online or self._batch).lag(positions)

    def start(self) -> None:
        """Starts the batch source, after asking whether the other one can be read.

        :raises Exception: whatever keeps one of them from starting.
        """
        probe = self._make_online()
        try:
            probe.start()
        finally:
            probe.close()
        self._batch.start()
        self._started = True

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord | ReadBlock] | None:
        """The next records, None once both sources have ended.

        :raises ClosedError: not started, or closed.
        :raises Exception: whatever a source raises.
        """
        if not self._started:
            raise ClosedError("the source was not started, or is closed")
        if self._online is None:
            records = self._batch.poll(max_items, timeout_s)
            if records is not None:
                return records
            self._online = self._make_online()
            self._online.start()
        return self._online.poll(max_items, timeout_s)

    def close(self) -> None:
        """Closes both."""
        self._started = False
        self._batch.close()
        if self._online is not None:
            self._online.close()

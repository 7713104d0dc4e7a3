"""The files of the batch stage and the topic that goes on after them, as one source."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from rillet.connectors.errors import BrokerUnavailableError
from rillet.schemas import ClosedError
from rillet.trainer import ExampleSource, Positions, RawRecord, ReadBlock

log = logging.getLogger(__name__)

#: between two attempts to reach the broker
_RETRY_S = 5.0
#: a topic that has given nothing for so long is taken to hold nothing more
_QUIET_S = 30.0


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
        self._in_batch = True
        #: whether what follows has given records
        self._given = False
        self._trouble = ""
        self._next_try_s = self._online_since_s = 0.0

    @property
    def trouble(self) -> str:
        """What it is waiting for, empty while all is well."""
        return self._trouble or (self._online or self._batch).trouble

    @property
    def in_batch(self) -> bool:
        """Whether the records that follow the last given ones are there already, however long they take to come.

        True until what follows the files has given its first records, or has had none for a while.
        """
        return self._in_batch

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
        :raises Exception: whatever a source raises, but for a broker that is away: that is waited out.
        """
        if not self._started:
            raise ClosedError("the source was not started, or is closed")
        if self._given:
            # Only now is it certain that whoever polls has the first records of the topic.
            self._in_batch = False
        if self._online is None:
            records = self._batch.poll(max_items, timeout_s)
            if records is not None:
                return records
            self._start_online(timeout_s)
            if self._online is None:
                return []
        records = self._online.poll(max_items, timeout_s)
        self._given = self._given or records is None or len(records) > 0 or self._quiet()
        return records

    def _start_online(self, timeout_s: float) -> None:
        """Starts what follows. A broker that is away is asked again after a while, and until then there is none."""
        if (left_s := self._next_try_s - time.monotonic()) > 0:
            time.sleep(min(left_s, timeout_s))
            return
        online = self._make_online()
        try:
            online.start()
        except BrokerUnavailableError as error:
            online.close()
            log.warning("%s; trying again in %.0f s", error, _RETRY_S)
            self._trouble, self._next_try_s = str(error), time.monotonic() + _RETRY_S
            return
        except BaseException:
            online.close()
            raise
        self._trouble, self._online, self._online_since_s = "", online, time.monotonic()

    def _quiet(self) -> bool:
        """Whether what follows answers and has had no records for a while."""
        return not self.trouble and time.monotonic() - self._online_since_s >= _QUIET_S

    def close(self) -> None:
        """Closes both."""
        self._started = False
        self._batch.close()
        if self._online is not None:
            self._online.close()

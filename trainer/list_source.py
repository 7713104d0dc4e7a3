"""Examples from a list: for tests, and for training on files that fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Self

from rillet.schemas.stages import ClosedError
from rillet.trainer.batch import Positions
from rillet.trainer.errors import TrainerError
from rillet.trainer.reader import RawRecord


class ListSource:
    """A :class:`rillet.trainer.ExampleSource` over records in memory; ends after the last one.

    >>> from rillet.trainer import ListSource, RawRecord
    >>> source = ListSource([RawRecord(0, 0, b"first"), RawRecord(0, 1, b"second")], positions={0: (1, 0)})
    >>> source.start()
    >>> [record.value for record in source.poll(10, 0.0)]
    [b'second']
    >>> source.poll(10, 0.0) is None
    True
    """

    trouble = ""

    def __init__(self, records: Iterable[RawRecord], positions: Positions | None = None) -> None:
        """
        :param records: in the order in which they are given out; offsets rise within a partition.
        :param positions: where to go on, as a checkpoint has them; partitions not named are read from their beginning.
            Rows within a record are not skipped here: ``OnlineTrainer`` does that.
        :raises TrainerError: the offsets of a partition do not rise.
        """
        self._waiting: deque[RawRecord] = deque()
        self._places: list[tuple[int, int]] = []
        next_offset: dict[int, int] = {}
        for record in records:
            if record.offset < next_offset.get(record.partition, 0):
                raise TrainerError(
                    f"partition {record.partition}: offset {record.offset} comes after"
                    f" {next_offset[record.partition] - 1}; give a partition's records in the order of their offsets"
                )
            next_offset[record.partition] = record.offset + 1
            self._places.append((record.partition, record.offset))
            if record.offset >= (positions or {}).get(record.partition, (0, 0))[0]:
                self._waiting.append(record)
        self._closed = False

    @classmethod
    def of_values(cls, values: Iterable[bytes], positions: Positions | None = None) -> Self:
        """One partition, number 0, with offsets from 0 on."""
        return cls((RawRecord(0, offset, value) for offset, value in enumerate(values)), positions)

    def start(self) -> None:
        """Nothing to start."""

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        """The next records, None once all were given out; never waits.

        :raises ClosedError: after :meth:`close`.
        """
        if self._closed:
            raise ClosedError("the list source is closed")
        if not self._waiting:
            return None
        return [self._waiting.popleft() for _ in range(min(max_items, len(self._waiting)))]

    def lag(self, positions: Positions) -> int:
        """Records of the list after ``positions``."""
        return sum(offset >= positions.get(partition, (0, 0))[0] for partition, offset in self._places)

    def close(self) -> None:
        """Drops what was not given out."""
        self._closed = True
        self._waiting.clear()

"""Appending to the delta log as its one writer: claims, sequence numbers, and noticing that one was replaced.

A writer opens an epoch by appending an ``EpochClaim`` for newest epoch + 1 and reading the log up to it: the log's
order decides between two claims of one epoch. After any failure the epoch is abandoned, since what was queued
may arrive late. The writer does not interpret the records.
"""

from __future__ import annotations

import numpy as np

from rillet.schemas import BackpressureError, DeltaBlock, DeltaRecord, DenseRef, EpochClaim, RecordError, decode, encode
from rillet.schemas.arrays import Int64s
from rillet.sync.blocks import NO_FIDS, TableShard
from rillet.sync.errors import FencedError, LogUnavailableError, PositionOutOfRangeError, SyncError
from rillet.sync.log import DeltaLog

UNKNOWN = -1
_READ_RECORDS = 256


class EpochWriter:
    """Writes the deltas of one table shard. Not thread-safe."""

    def __init__(
        self,
        log: DeltaLog,
        table_shard: TableShard,
        *,
        name: str,
        timeout_s: float,
        position: int = UNKNOWN,
        newest_epoch: int = 0,
    ) -> None:
        """:param name: unique to this process.
        :param timeout_s: for the log to acknowledge or answer.
        :param position: every record below it is accounted for; ``UNKNOWN`` = nothing is known of the log.
        :param newest_epoch: the highest epoch known from elsewhere (checkpoint, bases).
        """
        self.table_shard = table_shard
        self.name = name
        self._log = log
        self._timeout_s = timeout_s
        #: epoch and sequence of the next record, 0 before the first claim
        self.epoch = 0
        self.sequence = 0
        #: every record of the log below it is accounted for; ``UNKNOWN`` where nothing is known
        self.position = position
        #: whether an epoch is held: false before the first claim and after a failure
        self.is_open = False
        #: highest epoch known, of whichever writer, and who was the first to claim it in the log; highest tried here
        self.newest_epoch = newest_epoch
        self._newest_by = ""
        self._tried = 0
        self._appended = 0

    def knows_position(self) -> bool:
        """Whether the log still holds everything from the position on.

        :raises LogUnavailableError: the log does not answer.
        """
        return self.position != UNKNOWN and self._log.begin() <= self.position <= self._log.end()

    def start_over(self) -> None:
        """The next :meth:`open` reads the whole log."""
        self.position = self._log.begin()

    def open(self, above: int = 0) -> Int64s:
        """Claims an epoch above all that the log has, and above ``above``.

        :returns: int64[n] ascending, the fids of the table in all delta blocks from the position up to the claim.
        :raises FencedError: this writer has held an epoch, and another writer a newer one since.
        :raises LogUnavailableError: nothing has changed, except that the epoch tried is not tried again.
        """
        self.newest_epoch = max(self.newest_epoch, above)
        found: list[Int64s] = []
        position, _ = self._scan(self.position, self._log.end(), found)
        self._check_fence()
        while True:
            # An epoch tried before isn't tried again, held or not: its claim may come to the log late.
            epoch = self._tried = max(self.newest_epoch, self._tried) + 1
            ours = self.table_shard
            claim = EpochClaim(ours.model, ours.shard, epoch, ours.model_hash, self.name)
            self._queue(f"claim|{ours.shard}".encode(), encode(claim))
            self.commit()
            position, first = self._scan(position, self._log.end(), found, claim=epoch)
            if first is None:
                raise LogUnavailableError(f"the delta log acknowledged a claim of epoch {epoch} and does not hold it")
            if first == self.name and self.newest_epoch == epoch:
                break
            self._check_fence()
        self.position = position
        self.epoch, self.sequence = epoch, EpochClaim.sequence + 1
        self._appended = 0
        self.is_open = True
        return np.unique(np.concatenate(found)) if found else NO_FIDS

    def append(self, key: bytes, record: DeltaBlock | DenseRef) -> int:
        """Queues a record that bears the current epoch and sequence; returns its size in bytes.

        A full queue is committed first, which waits.

        :raises LogUnavailableError: the log takes nothing, or did not acknowledge what was queued before.
        :raises SyncError: the record is larger than the log takes.
        """
        value = encode(record)
        self._queue(key, value)
        self.sequence += 1
        self._appended += 1
        return len(value)

    def commit(self) -> None:
        """Returns once all appended records are acknowledged.

        :raises LogUnavailableError: not all were, in time.
        """
        self._log.commit(self._timeout_s)

    def abandon(self) -> None:
        """Gives the epoch up: some record of it may be missing from the log, or still come."""
        self.is_open = False

    def account(self) -> None:
        """Moves the position past what was acknowledged; if there is more than that, looks who else is writing.

        :raises FencedError: another one has a newer epoch.
        :raises LogUnavailableError: the log does not answer. The epoch is abandoned.
        """
        expected = self.position + self._appended
        try:
            end = self._log.end()
            if end < expected:
                raise LogUnavailableError(f"the delta log acknowledged records up to {expected} and ends at {end}")
            if end > expected:
                end, _ = self._scan(self.position, end, [])
                self._check_fence()
        except BaseException:
            self.abandon()
            raise
        self.position = end
        self._appended = 0

    def _queue(self, key: bytes, value: bytes) -> None:
        try:
            self._log.append(key, value)
        except BackpressureError:
            self.commit()
            try:
                self._log.append(key, value)
            except BackpressureError as error:
                raise SyncError(
                    f"a record of {len(value)} bytes does not fit the empty queue of the delta log ({error}): "
                    "lower [publisher] max_block_bytes"
                ) from error

    def _scan(self, position: int, end: int, found: list[Int64s], claim: int = UNKNOWN) -> tuple[int, str | None]:
        """Reads up to ``end``: the newest epoch and its writer, and the fids of the table into ``found``.

        :returns: the position after the last record read, and who first claimed epoch ``claim``.
        """
        first: str | None = None
        while position < end:
            try:
                records = self._log.read(position, _READ_RECORDS, self._timeout_s)
            except PositionOutOfRangeError as error:
                raise LogUnavailableError(f"the delta log moved on while it was read: {error}") from error
            if not records:
                raise LogUnavailableError(
                    f"the delta log ends at {end} but gave nothing from {position} within {self._timeout_s:g} s"
                )
            for log_record in records:
                record = _decoded(log_record.value)
                ours = self.table_shard
                if record is None or (record.model, record.shard) != (ours.model, ours.shard):
                    continue
                by = ""
                if isinstance(record, EpochClaim):
                    by = record.writer
                    if record.epoch == claim and first is None:
                        first = by
                elif isinstance(record, DeltaBlock) and record.table == ours.table:
                    # A damaged block is refused by readers; its fids must still be valid to ask a table for.
                    found += [record.fids[record.fids > 0], record.tombstones[record.tombstones > 0]]
                if record.epoch > self.newest_epoch:
                    self.newest_epoch, self._newest_by = record.epoch, by
            position = records[-1].position + 1
        return position, first

    def _check_fence(self) -> None:
        if self.epoch and self.newest_epoch > self.epoch and self._newest_by != self.name:
            self.abandon()
            raise FencedError(
                f"writer {self.name} of model {self.table_shard.model!r} held epoch {self.epoch}, but "
                f"{self._newest_by or 'another writer'} has taken epoch {self.newest_epoch}: "
                f"a newer trainer is at work, and this one has ended; run one per model"
            )


def _decoded(value: bytes) -> DeltaRecord | None:
    """The record, None for one that readers refuse too."""
    try:
        record = decode(value)
    except RecordError:
        return None
    return record if isinstance(record, EpochClaim | DeltaBlock | DenseRef) else None

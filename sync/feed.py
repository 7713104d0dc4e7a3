"""The fetching half of a replica: log and store in, a queue of checked work out.

It reads, decodes, verifies and loads; it never touches a table that is being read. It belongs to one thread,
which may be another than the one that works the queue off. No clock: ``now_ms`` is an argument.

What can be missing, and what is done about it: a gap in the sequence or a damaged record is read once more from
the log. If it is still there, the reader goes on (rows are absolute: what comes is right, others may be old)
and takes the first base from behind it. A log truncated beyond the reader is answered by the newest base.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import DeltaBlock, DenseRef
from rillet.sync.config import SyncConfig
from rillet.sync.errors import BaseNotFoundError, CorruptArtifactError, PositionOutOfRangeError, StoreUnavailableError
from rillet.sync.fence import Fence
from rillet.sync.intake import Incident, Intake
from rillet.sync.log import DeltaLog, LogRecord
from rillet.sync.manifest import Base, Dense, Manifest
from rillet.sync.store import ModelStore

OnIncident = Callable[[Incident, int, str], None]
Prepare = Callable[[Base], None]

NO_POSITION = -1
_UPSERT_ROWS = 65_536
#: between two tries to read a dense blob; the log is read meanwhile
_DENSE_RETRY_MS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A verified block, and the position behind it."""

    block: DeltaBlock
    next_position: int
    #: it was not in the log when this reader started, and not applied before
    is_new: bool


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A loaded version of the dense weights."""

    version: int
    dense: Dense


@dataclass(frozen=True, slots=True, eq=False)
class Swap:
    """A base, loaded into a table of its own; ``base.rows`` are left out."""

    base: Base
    table: EmbeddingTable


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything below is dealt with."""

    next_position: int


Work = Rows | Weights | Swap | Mark


class Feed:
    """Follows the log for one reader."""

    def __init__(
        self,
        store: ModelStore,
        log: DeltaLog,
        *,
        spec_hash: int | None,
        config: SyncConfig,
        table_name: str,
        shard: int,
        on_incident: OnIncident | None,
        prepare: Prepare | None,
        stop_position: int | None,
    ) -> None:
        self.work: deque[Work] = deque()
        #: rows and tombstones ever queued; the other side counts those it has taken off
        self.rows_queued = 0
        self.incidents: Counter[Incident] = Counter()
        #: end of the log at the last look, and at the first
        self.head = 0
        self.first_head = 0
        #: something below this position is missing: a base with its next offset there or later has it
        self.damaged_below: int | None = None
        #: the log does not hold the next position
        self.lost = False
        self._store = store
        self._log = log
        self._spec_hash = spec_hash
        self._config = config
        self._table_name = table_name
        self._shard = shard
        self._on_incident = on_incident
        self._prepare = prepare
        self._stop = stop_position
        self._intake: Intake | None = None
        self._fence = Fence(0, 0)
        self._base_order = (0, 0)
        self._next = 0
        self._newest_taken = 0
        self._read_again_at = NO_POSITION
        self._looked_ms: int | None = None
        self._pending: DenseRef | None = None
        self._dense_retry_ms = 0

    @property
    def loaded(self) -> bool:
        """Whether :meth:`load` has been done."""
        return self._intake is not None

    def load(self) -> None:
        """Queues the newest base that is whole and whose next offset the log still holds.

        :raises BaseNotFoundError: there is none; LogUnavailableError, StoreUnavailableError: try again.
        """
        begin, end = self._log.begin(), self._end()
        self._queue_base(lambda manifest: begin <= manifest.next_offset <= end)
        self.head = self.first_head = self._newest_taken = end

    def poll(self, now_ms: int, timeout_s: float, rows_waiting: int) -> int:
        """Queues what is new; returns how many records were dealt with. See ``Replica.poll``."""
        if self.damaged_below is not None and not self.lost and self._look_is_due(now_ms):
            self._mend(self.damaged_below)
        if rows_waiting >= self._config.max_queued_rows:
            return 0
        self.head = self._end()
        if self.lost:
            self._jump(now_ms)
            return 0
        records: list[LogRecord] = []
        if self._stop is None or self._next < self._stop:
            try:
                records = self._log.read(self._next, self._config.fetch_records, timeout_s)
            except PositionOutOfRangeError as error:
                self._report(Incident.TRUNCATED, self._next, str(error))
                self.lost = True
                self._looked_ms = None
                self._jump(now_ms)
                return 0
        taken = 0
        for record in records:
            if self._stop is not None and record.position >= self._stop:
                self._next = self._stop
            elif not self._take(record):
                break
            taken += 1
        if taken:
            self.work.append(Mark(self._next))
        if self._next >= self.head:
            self._load_pending(now_ms)
        return taken

    # -- records -------------------------------------------------------------------------------------------

    def _take(self, log_record: LogRecord) -> bool:
        """Queues, refuses or skips one record; false when the log is to be read again from here."""
        assert self._intake is not None  # noqa: S101  # poll comes after load
        position = log_record.position
        verdict = self._intake.judge(self._fence, log_record)
        if verdict.damaging and self._read_again_at != position:
            self._read_again_at = position
            return False
        if verdict.incident is not None:
            self._report(verdict.incident, position, verdict.detail)
        if verdict.damaging or verdict.incident is Incident.OTHER_SPEC:
            if self.damaged_below is None:
                self._looked_ms = None
            # What a gap left out lies before the record, which itself is taken.
            self.damaged_below = position if verdict.incident is Incident.GAP else position + 1
        if verdict.fence is not None:
            self._fence = verdict.fence
        self._next = position + 1
        if isinstance(verdict.record, DeltaBlock):
            block = verdict.record
            self.work.append(Rows(block, self._next, position >= self._newest_taken))
            self.rows_queued += len(block.fids) + len(block.tombstones)
        elif verdict.record is not None:
            self._pending = verdict.record
        self._newest_taken = max(self._newest_taken, self._next)
        return True

    def _load_pending(self, now_ms: int) -> None:
        """Loads the newest dense blob announced; the ones before it are passed over."""
        ref = self._pending
        if ref is None or now_ms < self._dense_retry_ms:
            return
        try:
            dense = self._store.load_dense(ref.path, ref.sha256)
        except CorruptArtifactError as error:
            self._report(Incident.BAD_DENSE, NO_POSITION, str(error))
        except StoreUnavailableError:
            self._dense_retry_ms = now_ms + _DENSE_RETRY_MS
            raise
        else:
            self.work.append(Weights(ref.version, dense))
        self._pending = None

    # -- bases ---------------------------------------------------------------------------------------------

    def _queue_base(self, accept: Callable[[Manifest], bool]) -> None:
        """Loads a base into a table of its own and queues the swap; reading goes on at its next offset."""
        spec_hash = self._spec_hash

        def fits(manifest: Manifest) -> bool:
            return (
                accept(manifest)
                and manifest.table == self._table_name
                and (spec_hash is None or manifest.spec_hash == spec_hash)
            )

        base = self._store.newest_base(fits, lambda error: self._report(Incident.BAD_BASE, NO_POSITION, str(error)))
        manifest = base.manifest
        table = EmbeddingTable(manifest.dim, TableConfig(optimizer="none", initial_capacity=max(manifest.rows, 1024)))
        for start in range(0, len(base.fids), _UPSERT_ROWS):
            part = slice(start, start + _UPSERT_ROWS)
            table.upsert(base.fids[part], base.rows[part])
        bare = replace(base, fids=base.fids[:0].copy(), rows=np.empty((0, manifest.dim), np.float32))
        # Before anything changes here: a base that it refuses leaves the reader as it was.
        if self._prepare is not None:
            self._prepare(bare)
        # A reader without a spec of its own holds to that of its first base.
        self._spec_hash = manifest.spec_hash
        self._intake = Intake(self._store.model, self._table_name, self._shard, manifest.spec_hash, manifest.dim)
        # Fencing goes by position: back at the base's, what the log says from there on counts again.
        self._fence = Fence(manifest.epoch, manifest.next_sequence)
        self._base_order = manifest.order
        self._next = manifest.next_offset
        self._read_again_at = NO_POSITION
        self.damaged_below = None
        self.lost = False
        self._pending = None
        self.work.append(Swap(bare, table))

    def _mend(self, damaged_below: int) -> None:
        """Takes a newer base that holds what is missing, if there is one; the same again would miss it again."""
        begin, end, last = max(self._log.begin(), damaged_below), self._end(), self._base_order

        def mends(manifest: Manifest) -> bool:
            return manifest.order > last and begin <= manifest.next_offset <= end

        if not any(mends(manifest) for manifest in self._store.bases().manifests):
            return
        try:
            self._queue_base(mends)
        except BaseNotFoundError as error:
            # Those listed are damaged or of another spec; the reader stays as it is and looks again.
            self._report(Incident.BAD_BASE, NO_POSITION, str(error))

    def _jump(self, now_ms: int) -> None:
        """The log did not hold the next position: only a base newer than the last can bring the reader back."""
        if not self._look_is_due(now_ms):
            raise BaseNotFoundError(
                f"position {self._next} of the delta log is gone and no base of model {self._store.model!r} was there "
                f"to go on from; the store is looked into every {self._config.base_check_interval_s:g} s"
            )
        begin, end = self._log.begin(), self._end()
        last = self._base_order
        self._queue_base(lambda manifest: manifest.order > last and begin <= manifest.next_offset <= end)

    def _look_is_due(self, now_ms: int) -> bool:
        if self._looked_ms is not None and now_ms - self._looked_ms < self._config.base_check_interval_s * 1000:
            return False
        self._looked_ms = now_ms
        return True

    def _end(self) -> int:
        end = self._log.end()
        return end if self._stop is None else min(end, self._stop)

    def _report(self, incident: Incident, position: int, detail: str) -> None:
        self.incidents[incident] += 1
        if self._on_incident is not None:
            self._on_incident(incident, position, detail)

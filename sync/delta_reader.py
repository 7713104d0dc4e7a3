"""The reading half of a replica: log and store in, a queue of validated updates out.

It reads, decodes, verifies and loads; it never touches a table that is being read. It belongs to one thread,
which may be another than the one that applies the updates. No clock: ``now_ms`` is an argument.

What can be missing, and what is done about it: a gap in the sequence or a damaged record is read once more from
the log. If it is still there, the reader goes on (rows are absolute: what comes is right, others may be old)
and takes the first base written after it. A log truncated beyond the reader is answered by the newest base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import DeltaBlock, DenseRef
from rillet.sync.blocks import TableShard
from rillet.sync.config import ReplicaConfig
from rillet.sync.errors import (
    BaseNotFoundError,
    CorruptArtifactError,
    OtherSpecBaseError,
    PositionOutOfRangeError,
    StoreUnavailableError,
)
from rillet.sync.fence import Fence
from rillet.sync.listener import ReplicaListener
from rillet.sync.log import DeltaLog, LogRecord
from rillet.sync.manifest import Manifest
from rillet.sync.store import ModelStore
from rillet.sync.updates import BaseUpdate, BlockUpdate, DenseUpdate, PositionUpdate, UpdateQueue
from rillet.sync.validation import Incident, validate

NO_POSITION = -1
_UPSERT_ROWS = 65_536
#: pause between two tries to read a dense blob; the log is read meanwhile
_DENSE_RETRY_MS = 1000


class DeltaReader:
    """Follows the log for one replica."""

    def __init__(
        self,
        store: ModelStore,
        log: DeltaLog,
        table_shard: TableShard,
        config: ReplicaConfig,
        listener: ReplicaListener[Any],
        stop_position: int | None = None,
    ) -> None:
        """See :class:`rillet.sync.replica.Replica`."""
        self.updates = UpdateQueue()
        self._store = store
        self._log = log
        self._table_shard = table_shard
        self._config = config
        self._listener = listener
        self._stop = stop_position
        #: how often what went wrong
        self.incidents: Counter[Incident] = Counter()
        #: end of the log at the last look, and when :meth:`load` was called
        self.end_seen = 0
        self.end_at_load = 0
        #: something below this position is missing; a base with its next offset there or later has it
        self._missing_below: int | None = None
        #: the log does not hold the next position
        self._lost = False
        self._dim: int | None = None
        self._fence = Fence(0, 0)
        self._base_order = (0, 0)
        self._next = 0
        self._newest_taken = 0
        self._read_again_at = NO_POSITION
        self._looked_ms: int | None = None
        self._dense_announced: DenseRef | None = None
        self._dense_retry_ms = 0

    @property
    def rows_missing(self) -> bool:
        """Whether rows may be missing until a newer base is loaded."""
        return self._lost or self._missing_below is not None

    def load(self) -> None:
        """Queues the newest base that is whole and whose next offset is still in the log.

        :raises OtherSpecBaseError: there are bases, all of other specs; with the hash of the newest one's and of ours.
        :raises BaseNotFoundError: there is none; LogUnavailableError, StoreUnavailableError: try again.
        """
        begin, end = self._log.begin(), self._end()
        try:
            self._queue_base(lambda manifest: begin <= manifest.next_offset <= end)
        except BaseNotFoundError as error:
            self._refuse_other_specs()
            raise error
        self.end_seen = self.end_at_load = self._newest_taken = end

    def poll(self, now_ms: int, timeout_s: float) -> int:
        """Queues what is new; returns how many records were dealt with. See ``Replica.poll``."""
        if self._missing_below is not None and not self._lost and self._look_is_due(now_ms):
            self._take_base_with_missing_rows(self._missing_below)
        if self.updates.rows >= self._config.max_queued_rows:
            return 0
        self.end_seen = self._end()
        if self._lost:
            self._take_base_after_loss(now_ms)
            return 0
        records: list[LogRecord] = []
        if self._stop is None or self._next < self._stop:
            try:
                records = self._log.read(self._next, self._config.fetch_records, timeout_s)
            except PositionOutOfRangeError as error:
                self._report(Incident.TRUNCATED, self._next, str(error))
                self._lost = True
                self._looked_ms = None
                self._take_base_after_loss(now_ms)
                return 0
        taken = 0
        for record in records:
            if self._stop is not None and record.position >= self._stop:
                self._next = self._stop
            elif not self._take(record):
                break
            taken += 1
        if taken:
            self.updates.put(PositionUpdate(self._next))
        if self._next >= self.end_seen:
            self._load_dense(now_ms)
        return taken

    # -- records -------------------------------------------------------------------------------------------

    def _take(self, log_record: LogRecord) -> bool:
        """Queues, refuses or skips one record; false when the log is to be read again from here."""
        assert self._dim is not None  # noqa: S101  # poll comes after load
        position = log_record.position
        result = validate(log_record.value, self._table_shard, self._dim, self._fence)
        if result.rows_missing and self._read_again_at != position:
            self._read_again_at = position
            return False
        if result.incident is not None:
            self._report(result.incident, position, result.detail)
        if result.rows_missing or result.incident is Incident.OTHER_SPEC:
            if self._missing_below is None:
                self._looked_ms = None
            # What a gap left out lies before the record, which itself is taken.
            self._missing_below = position if result.incident is Incident.GAP else position + 1
        if result.fence is not None:
            self._fence = result.fence
        self._next = position + 1
        if isinstance(result.record, DeltaBlock):
            self.updates.put(BlockUpdate(result.record, self._next, position >= self._newest_taken))
        elif result.record is not None:
            self._dense_announced = result.record
        self._newest_taken = max(self._newest_taken, self._next)
        return True

    def _load_dense(self, now_ms: int) -> None:
        """Loads the newest dense blob announced; the ones before it are passed over."""
        ref = self._dense_announced
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
            self.updates.put(DenseUpdate(ref.epoch, ref.version, dense))
        self._dense_announced = None

    # -- bases ---------------------------------------------------------------------------------------------

    def _queue_base(self, accept: Callable[[Manifest], bool]) -> None:
        """Loads a base into a table of its own and queues the swap; reading goes on at its next offset."""

        def fits(manifest: Manifest) -> bool:
            ours = self._table_shard
            return accept(manifest) and (manifest.table, manifest.model_hash) == (ours.table, ours.model_hash)

        base = self._store.newest_base(fits, lambda error: self._report(Incident.BAD_BASE, NO_POSITION, str(error)))
        manifest = base.manifest
        table = EmbeddingTable(manifest.dim, TableConfig(optimizer="none", initial_capacity=max(manifest.rows, 1024)))
        for start in range(0, len(base.fids), _UPSERT_ROWS):
            part = slice(start, start + _UPSERT_ROWS)
            table.upsert(base.fids[part], base.rows[part])
        bare = replace(base, fids=base.fids[:0].copy(), rows=np.empty((0, manifest.dim), np.float32))
        # Before anything changes here: a base that it refuses leaves the reader as it was.
        prepared = self._listener.prepare(bare)
        self._dim = manifest.dim
        # Fencing goes by position: what stands after the base's counts again, even if it was read before.
        self._fence = Fence(manifest.epoch, manifest.next_sequence)
        self._base_order = manifest.order
        self._next = manifest.next_offset
        self._read_again_at = NO_POSITION
        self._missing_below = None
        self._lost = False
        self._dense_announced = None
        self.updates.put(BaseUpdate(bare, table, prepared))

    def _refuse_other_specs(self) -> None:
        manifests, ours = self._store.bases().manifests, self._table_shard.model_hash
        if manifests and all(manifest.model_hash != ours for manifest in manifests):
            newest = manifests[0]
            raise OtherSpecBaseError(
                f"{self._store.url} has bases of model {self._store.model!r}, the newest ({newest.name}) of feature spec,"
                f" crosses and transforms {newest.model_hash:#x}, ours are {ours:#x}: start `rillet train` on our spec, which writes"
                f" a base at its start, or start this server on the spec of that base ({newest.name}/spec.toml)"
            )

    def _take_base_with_missing_rows(self, missing_below: int) -> None:
        """Takes a newer base that holds what is missing, if there is one; the same again would miss it again."""
        begin, end, last = max(self._log.begin(), missing_below), self._end(), self._base_order

        def holds_them(manifest: Manifest) -> bool:
            return manifest.order > last and begin <= manifest.next_offset <= end

        if not any(holds_them(manifest) for manifest in self._store.bases().manifests):
            return
        try:
            self._queue_base(holds_them)
        except BaseNotFoundError as error:
            # Those listed are damaged or of another spec; the reader stays as it is and looks again.
            self._report(Incident.BAD_BASE, NO_POSITION, str(error))

    def _take_base_after_loss(self, now_ms: int) -> None:
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
        self._listener.on_incident(incident, position, detail)

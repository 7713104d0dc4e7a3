"""The reading side: a table that follows the writer's, from a base and the delta log.

``load`` and ``poll`` read (``rillet.sync.delta_reader``) and may run in a thread of their own. ``apply_slice`` changes
the table, a bounded number of rows per call, and belongs to the thread that reads the table: between two batches
no row is half written. The replica has no clock and no thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rillet.embeddings import EmbeddingTable
from rillet.schemas import NO_TIME_MS, DeltaBlock
from rillet.sync.blocks import TableShard, rows_of
from rillet.sync.config import ReplicaConfig
from rillet.sync.delta_reader import DeltaReader
from rillet.sync.errors import BaseNotFoundError
from rillet.sync.listener import ReplicaListener
from rillet.sync.log import DeltaLog
from rillet.sync.manifest import Base, Dense
from rillet.sync.store import ModelStore
from rillet.sync.updates import BaseUpdate, BlockUpdate, DenseUpdate, PositionUpdate
from rillet.sync.validation import Incident

#: What a queued update costs at least, in rows, so that a slice of many small updates stays short.
_UPDATE_ROWS = 64


@dataclass(slots=True)
class Applied:
    """What has been applied since the replica was made."""

    blocks: int = 0
    rows: int = 0
    tombstones: int = 0
    #: size of the applied fids, rows and tombstones
    bytes: int = 0
    #: versions of the dense weights, those that came with a base not counted
    dense_versions: int = 0
    #: bases loaded, the first included
    bases: int = 0


class Replica:
    """Follows one shard of a table and the dense weights of its model."""

    def __init__(
        self,
        store: ModelStore,
        log: DeltaLog,
        table_shard: TableShard,
        *,
        config: ReplicaConfig | None = None,
        listener: ReplicaListener[Any] | None = None,
        stop_position: int | None = None,
    ) -> None:
        """:param table_shard: of the store's model.
        :param stop_position: the log is read as if it ended here (``rillet.sync.history``).
        :raises ValueError: the store is another model's.
        """
        store.check_model(table_shard.model)
        self.config = config or ReplicaConfig()
        self.model = store.model
        self.applied = Applied()
        self._listener = listener or ReplicaListener[Any]()
        self._reader = DeltaReader(store, log, table_shard, self.config, self._listener, stop_position)
        self._base: Base | None = None
        self._table: EmbeddingTable | None = None
        self._dense: Dense = {}
        self._version = 0
        #: epoch and version of the dense weights
        self._dense_order = (0, 0)
        self._ready = False
        self._position = 0
        self._epoch = 0
        self._sequence = 0
        self._newest_event_ms = NO_TIME_MS
        #: rows of the first queued block that are applied already
        self._offset = 0

    # -- state, as applied ---------------------------------------------------------------------------------

    @property
    def table(self) -> EmbeddingTable:
        """The table. Another object after a newer base had to be loaded: ask each time.

        :raises BaseNotFoundError: before :meth:`load`.
        """
        if self._table is None:
            raise BaseNotFoundError(f"the replica of model {self.model!r} has no base yet: call load first")
        return self._table

    @property
    def base(self) -> Base:
        """Manifest, program, spec and weights of the base loaded last; its rows are in :attr:`table` only.

        :raises BaseNotFoundError: before :meth:`load`.
        """
        if self._base is None:
            raise BaseNotFoundError(f"the replica of model {self.model!r} has no base yet: call load first")
        return self._base

    @property
    def dense(self) -> Dense:
        """The dense weights applied last; another object after each version."""
        return self._dense

    @property
    def version(self) -> int:
        """Version of the dense weights applied last."""
        return self._version

    @property
    def position(self) -> int:
        """Everything in the log below it is applied or refused."""
        return self._position

    @property
    def epoch(self) -> int:
        """Epoch of the block applied last."""
        return self._epoch

    @property
    def sequence(self) -> int:
        """Sequence of the block applied last."""
        return self._sequence

    @property
    def rows(self) -> int:
        """Rows of the table, 0 before :meth:`load`."""
        return 0 if self._table is None else len(self._table)

    @property
    def lag_records(self) -> int:
        """Records that the log held at the last poll and that are not dealt with."""
        return max(self._reader.end_seen - self._position, 0)

    @property
    def queued_rows(self) -> int:
        """Rows fetched and not applied yet."""
        return self._reader.updates.rows

    @property
    def newest_event_ms(self) -> int:
        """Newest event time that the applied rows were trained on, as the last block says; -1 when not known."""
        return self._newest_event_ms

    @property
    def incidents(self) -> Mapping[Incident, int]:
        """How often what went wrong."""
        return self._reader.incidents

    @property
    def ready(self) -> bool:
        """Whether a base was loaded and everything applied that the log held at that time; stays true from then on.

        What is old or missing later is told by :attr:`lag_records` and :attr:`degraded`.
        """
        return self._ready

    @property
    def degraded(self) -> bool:
        """Whether rows may be missing until a newer base is loaded."""
        return self._reader.rows_missing

    # -- reading ------------------------------------------------------------------------------------------

    def load(self) -> Base:
        """Loads the newest usable base; once, before serving and before any :meth:`poll`.

        A base that is damaged is reported by name, and the one before it taken.

        :raises BaseNotFoundError: none is whole, of the reader's spec and inside the log; a trainer has to write one.
        :raises StoreUnavailableError: LogUnavailableError likewise: try again.
        """
        self._reader.load()
        self.apply_slice()
        return self.base

    def poll(self, now_ms: int, timeout_s: float = 0.0) -> int:
        """Fetches, checks and queues what is new; returns how many records were dealt with.

        Nothing is fetched while ``max_queued_rows`` wait to be applied.

        :param now_ms: decides when the store is looked into for a base with the rows that are missing.
        :param timeout_s: how long to wait for a first record.
        :raises LogUnavailableError: StoreUnavailableError likewise. What is queued stays; call again.
        :raises BaseNotFoundError: the log no longer holds this reader's position and no base reaches into it yet,
            or :meth:`load` was not called. What there is can be served; call again.
        """
        _ = self.base
        return self._reader.poll(now_ms, timeout_s)

    # -- applying ------------------------------------------------------------------------------------------

    def apply_slice(self, max_rows: int | None = None) -> int:
        """Applies what is queued, up to ``max_rows`` (``slice_rows`` by default); returns rows applied.

        To be called between two batches by the thread that reads :attr:`table`. A block may be applied over
        several calls; each row is whole after each. It returns 0 only if no rows are queued, or nearly so: an update
        without rows takes some of the budget too.
        """
        budget = self.config.slice_rows if max_rows is None else max_rows
        updates = self._reader.updates
        done = 0
        while budget > 0 and updates:
            update = updates.first()
            if isinstance(update, BlockUpdate):
                count = self._apply_rows(update.block, budget)
                done += count
                budget -= max(count, _UPDATE_ROWS)
                if self._offset:
                    break
            # Off the queue first: what a listener raises must not have the update applied again.
            updates.remove_first()
            if isinstance(update, BlockUpdate):
                self._finish_block(update)
            elif isinstance(update, PositionUpdate):
                self._position = update.next_position
            elif isinstance(update, DenseUpdate):
                self._set_dense(update)
            else:
                self._set_base(update)
        if self._table is not None and self._position >= self._reader.end_at_load:
            self._ready = True
        return done

    def catch_up(self, now_ms: int, timeout_s: float = 0.0) -> None:
        """Polls and applies until nothing more is there: for a start, and for tests. Not for a serving loop.

        :raises LogUnavailableError: as :meth:`poll`.
        """
        updates = self._reader.updates
        while self.poll(now_ms, timeout_s) or updates or self.lag_records:
            while updates:
                self.apply_slice(self.config.max_queued_rows)

    def _apply_rows(self, block: DeltaBlock, budget: int) -> int:
        """Applies up to ``budget`` rows from the offset on; leaves the offset at 0 once all are applied."""
        table = self.table
        upserts, total = len(block.fids), len(block.fids) + len(block.tombstones)
        start = self._offset
        end = min(start + budget, total)
        if start < upserts:
            part = slice(start, min(end, upserts))
            table.upsert(block.fids[part], rows_of(block)[part])
        if end > upserts:
            table.delete(block.tombstones[max(start - upserts, 0) : end - upserts])
        self._reader.updates.rows_applied(end - start)
        self._offset = end if end < total else 0
        return end - start

    def _finish_block(self, update: BlockUpdate) -> None:
        block, applied = update.block, self.applied
        self._position = update.next_position
        self._epoch, self._sequence = block.epoch, block.sequence
        if block.freshness.newest_event_ms != NO_TIME_MS:
            self._newest_event_ms = block.freshness.newest_event_ms
        applied.blocks += 1
        applied.rows += len(block.fids)
        applied.tombstones += len(block.tombstones)
        applied.bytes += block.fids.nbytes + block.rows.nbytes + block.tombstones.nbytes
        if update.is_new:
            self._listener.on_applied(block)

    def _set_dense(self, update: DenseUpdate) -> None:
        order = (update.epoch, update.version)
        if order <= self._dense_order:
            return  # read again after a base: these weights or newer ones are applied already
        self._dense_order = order
        self._version, self._dense = update.version, update.dense
        self.applied.dense_versions += 1
        self._listener.on_dense(update.version, update.dense)

    def _set_base(self, update: BaseUpdate) -> None:
        base, manifest = update.base, update.base.manifest
        self._base, self._table = base, update.table
        # The rows are as of the base's position, from where the log is read again. Weights applied already stay if
        # they are newer.
        order = (manifest.epoch, manifest.version)
        if order >= self._dense_order:
            self._dense_order, self._version, self._dense = order, manifest.version, base.dense
        self._position = manifest.next_offset
        self._epoch, self._sequence = manifest.epoch, manifest.next_sequence - 1
        self._newest_event_ms = manifest.newest_event_ms
        self.applied.bases += 1
        self._listener.on_base(base, update.prepared)

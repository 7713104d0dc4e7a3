"""The reading side: a table that follows the writer's, from a base and the delta log.

``load`` and ``poll`` fetch (``rillet.sync.feed``) and may run in a thread of their own. ``apply_slice`` changes the
table, a bounded number of rows a call, and belongs to the thread that reads the table: between two batches
no row is half written. The replica has no clock and no thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock
from rillet.sync.blocks import rows_of
from rillet.sync.config import SyncConfig
from rillet.sync.errors import BaseNotFoundError
from rillet.sync.feed import Feed, Mark, OnIncident, Prepare, Rows, Swap, Weights
from rillet.sync.intake import Incident
from rillet.sync.log import DeltaLog
from rillet.sync.manifest import Base, Dense
from rillet.sync.store import ModelStore

#: What a queued item costs at least, in rows, so that a slice of many small items stays short.
_ITEM_ROWS = 64

OnApplied = Callable[[DeltaBlock], None]
OnDense = Callable[[int, Dense], None]


@dataclass(slots=True)
class Applied:
    """What has been applied since the replica was made."""

    blocks: int = 0
    rows: int = 0
    tombstones: int = 0
    #: size of the applied fids, rows and tombstones
    bytes: int = 0
    dense_versions: int = 0
    #: bases loaded, the first included
    bases: int = 0


class Replica:
    """Follows one table and the dense weights of one model."""

    def __init__(
        self,
        store: ModelStore,
        log: DeltaLog,
        *,
        spec_hash: int | None = None,
        config: SyncConfig | None = None,
        table_name: str = "embeddings",
        shard: int = 0,
        on_applied: OnApplied | None = None,
        on_dense: OnDense | None = None,
        on_incident: OnIncident | None = None,
        prepare: Prepare | None = None,
        stop_position: int | None = None,
    ) -> None:
        """:param spec_hash: of the reader's feature spec; None = that of the first base is taken.
        :param on_applied: called in the applying thread once all rows of a block are in the table; not for
            blocks that the log held when the replica was loaded, which say nothing about freshness.
        :param on_dense: called in the applying thread with version and weights, for those of a base too.
        :param on_incident: called in the fetching thread with kind, log position (-1 without one) and a text.
        :param prepare: called in the fetching thread with each base before it is queued; the same object is
            :attr:`base` once applied. What it raises comes out of :meth:`load` or :meth:`poll`, and the base is not taken.
        :param stop_position: the log is read as if it ended here (``rillet.sync.history``).
        """
        self.config = config or SyncConfig()
        self.model = store.model
        self.applied = Applied()
        self._feed = Feed(
            store,
            log,
            spec_hash=spec_hash,
            config=self.config,
            table_name=table_name,
            shard=shard,
            on_incident=on_incident,
            prepare=prepare,
            stop_position=stop_position,
        )
        self._on_applied = on_applied
        self._on_dense = on_dense
        self._base: Base | None = None
        self._table: EmbeddingTable | None = None
        self._dense: Dense = {}
        self._version = 0
        self._position = 0
        self._epoch = 0
        self._sequence = 0
        self._newest_event_ms = -1
        #: rows of the first queued block that are applied already, and all rows ever taken off the queue
        self._offset = 0
        self._rows_done = 0

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
        return max(self._feed.head - self._position, 0)

    @property
    def queued_rows(self) -> int:
        """Rows fetched and not applied yet."""
        return self._feed.rows_queued - self._rows_done

    @property
    def newest_event_ms(self) -> int:
        """Newest event time that the applied rows were trained on, -1 when not known."""
        return self._newest_event_ms

    @property
    def incidents(self) -> Mapping[Incident, int]:
        """How often what went wrong."""
        return self._feed.incidents

    @property
    def ready(self) -> bool:
        """Whether a base is loaded and everything applied that the log held at that time."""
        return self._table is not None and self._position >= self._feed.first_head

    @property
    def degraded(self) -> bool:
        """Whether rows may be missing until a newer base is loaded."""
        return self._feed.lost or self._feed.damaged_below is not None

    # -- fetching ------------------------------------------------------------------------------------------

    def load(self) -> Base:
        """Loads the newest usable base; once, before serving and before any :meth:`poll`.

        A base that is damaged is reported by name, and the one before it taken.

        :raises BaseNotFoundError: none is whole, of the reader's spec and inside the log; a trainer has to write one.
        :raises StoreUnavailableError: LogUnavailableError likewise: try again.
        """
        self._feed.load()
        self.apply_slice()
        return self.base

    def poll(self, now_ms: int, timeout_s: float = 0.0) -> int:
        """Fetches, checks and queues what is new; returns how many records were dealt with.

        Nothing is fetched while ``max_queued_rows`` wait to be applied.

        :param now_ms: decides when the store is looked into for a base that mends what is missing.
        :param timeout_s: how long to wait for a first record.
        :raises LogUnavailableError: StoreUnavailableError likewise. What is queued stays; call again.
        :raises BaseNotFoundError: the log no longer holds this reader's position and no base reaches into it yet,
            or :meth:`load` was not called. What there is can be served; call again.
        """
        if not self._feed.loaded:
            raise BaseNotFoundError(f"the replica of model {self.model!r} has no base yet: call load first")
        return self._feed.poll(now_ms, timeout_s, self.queued_rows)

    # -- applying ------------------------------------------------------------------------------------------

    def apply_slice(self, max_rows: int | None = None) -> int:
        """Applies what is queued, up to ``max_rows`` (``slice_rows`` by default); returns rows applied.

        To be called between two batches by the thread that reads :attr:`table`. A block may be applied over
        several calls; each row is whole after each. It returns 0 only if no rows are queued, or nearly so: blocks
        without rows count a little too.
        """
        budget = self.config.slice_rows if max_rows is None else max_rows
        work = self._feed.work
        done = 0
        while budget > 0 and work:
            item = work[0]
            if isinstance(item, Rows):
                count = self._apply_rows(item.block, budget)
                done += count
                budget -= max(count, _ITEM_ROWS)
                if self._offset:
                    break
            # Off the queue first: what a callback raises must not have the item applied again.
            work.popleft()
            if isinstance(item, Rows):
                self._finish_block(item)
            elif isinstance(item, Mark):
                self._position = item.next_position
            elif isinstance(item, Weights):
                self._set_dense(item.version, item.dense)
            else:
                self._swap(item)
        return done

    def catch_up(self, now_ms: int, timeout_s: float = 0.0) -> None:
        """Polls and applies until nothing more is at hand: for a start, and for tests. Not for a serving loop.

        :raises LogUnavailableError: as :meth:`poll`.
        """
        while self.poll(now_ms, timeout_s) or self._feed.work or self.lag_records:
            while self._feed.work:
                self.apply_slice(self.config.max_queued_rows)

    def _apply_rows(self, block: DeltaBlock, budget: int) -> int:
        """Applies up to ``budget`` rows from the offset on; leaves the offset at 0 when the block is through."""
        table = self.table
        upserts, total = len(block.fids), len(block.fids) + len(block.tombstones)
        start = self._offset
        end = min(start + budget, total)
        if start < upserts:
            part = slice(start, min(end, upserts))
            table.upsert(block.fids[part], rows_of(block)[part])
        if end > upserts:
            table.delete(block.tombstones[max(start - upserts, 0) : end - upserts])
        self._rows_done += end - start
        self._offset = end if end < total else 0
        return end - start

    def _finish_block(self, item: Rows) -> None:
        block, applied = item.block, self.applied
        self._position = item.next_position
        self._epoch, self._sequence = block.epoch, block.sequence
        self._newest_event_ms = max(self._newest_event_ms, block.newest_event_ms)
        applied.blocks += 1
        applied.rows += len(block.fids)
        applied.tombstones += len(block.tombstones)
        applied.bytes += block.fids.nbytes + block.rows.nbytes + block.tombstones.nbytes
        if item.is_new and self._on_applied is not None:
            self._on_applied(block)

    def _set_dense(self, version: int, dense: Dense) -> None:
        self._version, self._dense = version, dense
        self.applied.dense_versions += 1
        if self._on_dense is not None:
            self._on_dense(version, dense)

    def _swap(self, item: Swap) -> None:
        manifest = item.base.manifest
        self._base, self._table = item.base, item.table
        self._position = manifest.next_offset
        self._epoch, self._sequence = manifest.epoch, manifest.next_sequence - 1
        self._newest_event_ms = manifest.newest_event_ms
        self.applied.bases += 1
        self._set_dense(manifest.version, item.base.dense)

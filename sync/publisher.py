"""The writing side: touched rows to delta blocks, dense weights to blobs, the table to bases.

One publisher runs beside one trainer and is called from its thread, between batches. It has no clock: the
caller's ``now_ms`` decides what is due. Source: Monolith section 2.3 (touched keys, sparse and dense
intervals); epochs, sequences and the reconciliation are not in the paper.

How a reader's rows come to equal the writer's table:

* A publication carries the absolute rows of all keys touched since the last acknowledged one. Keys are
  forgotten on acknowledgement only. After a failure they are put back and the epoch is given up for a new one,
  so that whatever arrives late of the failed publication is refused by its position (``rillet.sync.fence``).
* A base is taken right after a publication, with no training between: no touched key is unpublished then, and
  ``next_offset`` is the position up to which this writer has accounted for every record. So the base's rows
  are those of a reader that applied everything below ``next_offset``: base + log from there is the same as
  the log alone, whichever base is taken, and equals the writer's table at each acknowledged publication.
  (With touched keys unpublished, a base would hold values that the log does not have. If the writer then died
  and its successor went on from an older checkpoint, a reader that started from that base would keep them for good.)
* A writer that takes over from a checkpoint finds in the log what its predecessor published after that
  checkpoint, and publishes its own rows of those keys again (tombstones for those it does not have).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock, DenseRef, Freshness, encode
from rillet.schemas.arrays import Int64s
from rillet.sync.base_snapshot import BaseSnapshot
from rillet.sync.blocks import NO_FIDS, TableShard, block_rows, build_block
from rillet.sync.config import PublisherConfig
from rillet.sync.errors import BaseNotFoundError, SyncError
from rillet.sync.log import DeltaLog
from rillet.sync.manifest import Base, Dense, Manifest
from rillet.sync.store import ModelStore
from rillet.sync.writer import UNKNOWN, EpochWriter

#: the dense weights are published again once they have learned from so many times the rows of their last version
_OUTGROWN = 1.1
#: what the lengths, the checksum and the sequence of a full block may take more than those of an empty one
_VARINT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Publication:
    """What one call of :meth:`Publisher.publish` brought to the log, acknowledged."""

    epoch: int
    blocks: int
    rows: int
    tombstones: int
    #: encoded size of the blocks
    bytes: int
    #: version of the dense blob, None when none was published
    dense_version: int | None = None


class Publisher:
    """Publishes one shard of a table and the dense weights of its model. Not thread-safe."""

    def __init__(
        self,
        log: DeltaLog,
        store: ModelStore,
        table_shard: TableShard,
        *,
        writer: str,
        config: PublisherConfig | None = None,
        state: Mapping[str, int] | None = None,
    ) -> None:
        """Touches neither log nor store; the first publication claims an epoch.

        :param table_shard: of the store's model.
        :param writer: unique to this process, such as host, pid and start time: tells claims apart.
        :param state: what :meth:`state` gave for the checkpoint that the table was restored from. Without it
            nothing is known of what readers hold: all rows are published once more.
        :raises ValueError: the store is another model's.
        """
        store.check_model(table_shard.model)
        self.config = config or PublisherConfig()
        self._store = store
        self._table_shard = table_shard
        known = state or {"epoch": 0, "position": UNKNOWN}
        self._writer = EpochWriter(
            log,
            table_shard,
            name=writer,
            timeout_s=self.config.flush_timeout_s,
            position=known["position"],
            newest_epoch=known["epoch"],
        )
        #: fids to publish again whatever the touched set says, ascending, and the position from which they were collected
        self._republish: Int64s = NO_FIDS
        self._republish_from = known["position"]
        self._version = UNKNOWN
        #: its action times are those not published yet
        self._freshness = Freshness()
        self._last_sparse_ms: int | None = None
        self._last_dense_ms: int | None = None
        self._last_dense_rows = 0
        self._last_base_ms: int | None = None
        self._base_time_known = False

    # -- what is due ---------------------------------------------------------------------------------------

    def sparse_due(self, now_ms: int, table: EmbeddingTable | None = None) -> bool:
        """Whether touched rows are to be published: the interval is over, or ``table`` has too many pending."""
        if table is not None and (table.touched.should_drain or len(table.touched) >= self.config.max_touched):
            return True
        return _over(self._last_sparse_ms, self.config.sparse_interval_s, now_ms)

    def dense_due(self, now_ms: int, trained_rows: int) -> bool:
        """Whether a publication that is about to be made should bring the dense weights.

        It should when their interval is over, or the model has outgrown what was published last.

        :param trained_rows: rows that the model has learned from since its beginning.
        """
        return _over(self._last_dense_ms, self.config.dense_interval_s, now_ms) or self.dense_outgrown(trained_rows)

    def dense_outgrown(self, trained_rows: int) -> bool:
        """Whether a tenth has been learned on top of what the dense weights were published with last.

        A young model is another one after each sparse interval; with age, the rule asks more and more rarely.
        """
        return trained_rows > _OUTGROWN * self._last_dense_rows

    def base_due(self, now_ms: int) -> bool:
        """Whether a base is to be written: the interval since the store's newest of our spec is over, or none is usable.

        :raises StoreUnavailableError: on a first call, which looks into the store.
        """
        if not self._base_time_known:
            ours = [manifest for manifest in self._store.bases().manifests if self._is_ours(manifest)]
            self._last_base_ms = ours[0].created_ms if ours else None
            self._base_time_known = True
        return _over(self._last_base_ms, self.config.base_interval_s, now_ms)

    # -- what the trainer calls ----------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The newest epoch that this writer has held, 0 before its first."""
        return self._writer.epoch

    @property
    def version(self) -> int:
        """The newest version given to a dense blob or base, 0 before any."""
        return max(self._version, 0)

    def state(self) -> dict[str, int]:
        """To be kept in the trainer's checkpoint, beside the table and its touched keys of the same moment."""
        position = self._republish_from if len(self._republish) else self._writer.position
        return {"epoch": self._writer.newest_epoch, "position": position}

    def publish(
        self,
        table: EmbeddingTable,
        *,
        now_ms: int,
        freshness: Freshness,
        dense: Dense | None = None,
        trained_rows: int = 0,
    ) -> Publication:
        """Publishes all touched rows, and the dense weights where given. At least one block goes out each time.

        :param table: tracks touched keys.
        :param trained_rows: rows that the model has learned from since its beginning, for :meth:`dense_due`.
        :param freshness: of the examples trained on; its action times are those since the last call. A sample of
            them travels on the last block. They are kept if the call fails, so each is handed over once.
        :raises LogUnavailableError: nothing is forgotten; call again at the next interval.
        :raises StoreUnavailableError: the store could not be reached. Where only the dense blob failed, the rows
            were published all the same.
        :raises FencedError: a newer writer is at work: stop training.
        """
        self._last_sparse_ms = now_ms
        self._freshness = self._freshness.merged(freshness)
        self._ensure_epoch(table)
        ref: DenseRef | None = None
        failure: SyncError | None = None
        if dense is not None:
            try:
                ref = self._write_dense(dense)
            except SyncError as error:
                failure = error
        publication = self._publish_rows(table, ref, action_times=True)
        if failure is not None:
            raise failure
        if ref is not None:
            self._last_dense_ms, self._last_dense_rows = now_ms, trained_rows
        return publication

    def snapshot(self, table: EmbeddingTable, *, now_ms: int, dense: Dense, program: bytes, spec_toml: str) -> Base:
        """A base in memory at once; see :meth:`begin_base`."""
        begun = self.begin_base(table, now_ms=now_ms, dense=dense, program=program, spec_toml=spec_toml)
        return begun.base(iter(begun.table.take, None))

    def begin_base(
        self, table: EmbeddingTable, *, now_ms: int, dense: Dense, program: bytes, spec_toml: str
    ) -> BaseSnapshot:
        """A base of this moment, for ``ModelStore.write_base``, whose rows are taken while training goes on.

        Touched rows are published first where there are any (see the module's text).

        :param program: the exported dense part, opaque here.
        :raises LogUnavailableError: as :meth:`publish`; StoreUnavailableError and FencedError too.
        """
        self._ensure_epoch(table)
        if len(table.touched) or len(self._republish):
            self._publish_rows(table, None, action_times=False)
        else:
            self._writer.account()
        rows = table.snapshot(slots=False)
        self._version += 1
        self._last_base_ms = now_ms
        self._base_time_known = True
        writer, ours = self._writer, self._table_shard
        manifest = Manifest(
            model=ours.model,
            table=ours.table,
            version=self._version,
            epoch=writer.epoch,
            next_sequence=writer.sequence,
            next_offsets={ours.shard: writer.position},
            model_hash=ours.model_hash,
            dim=table.dim,
            rows=rows.count,
            newest_event_ms=self._freshness.newest_event_ms,
            newest_ingest_ms=self._freshness.newest_ingest_ms,
            created_ms=now_ms,
        )
        weights = {name: np.array(value) for name, value in dense.items()}
        return BaseSnapshot(manifest, rows, weights, program, spec_toml)

    def base_failed(self, now_ms: int) -> None:
        """Call it when a snapshot could not be written: the next base is then due in one sparse interval."""
        config = self.config
        self._last_base_ms = now_ms - round((config.base_interval_s - config.sparse_interval_s) * 1000)

    # -- internals -----------------------------------------------------------------------------------------------

    def _ensure_epoch(self, table: EmbeddingTable) -> None:
        """Claims an epoch unless one is open, and collects what has to be published again."""
        writer = self._writer
        if writer.is_open:
            return
        # The log may have been truncated up to a base: epochs are in manifests too.
        newest_epoch = max((manifest.epoch for manifest in self._store.bases().manifests), default=0)
        if self._version == UNKNOWN:
            self._version = self._store.newest_version()
        if not writer.knows_position():
            self._start_over(table)
        start = writer.position
        found = writer.open(above=newest_epoch)
        if len(found):
            if not len(self._republish):
                self._republish_from = start
            self._republish = np.union1d(self._republish, found)

    def _start_over(self, table: EmbeddingTable) -> None:
        """Nothing is known of what readers hold: every fid that may be with them is published again, as row or tombstone."""
        fids, _ = table.items()
        with suppress(BaseNotFoundError):
            fids = np.union1d(fids, self._store.newest_base(self._is_ours).fids)
        self._republish = np.union1d(self._republish, fids)
        self._republish_from = UNKNOWN
        # From the log's begin, not from the base's position: the base may be of a log that was deleted since.
        self._writer.start_over()
        self._last_base_ms = None
        self._base_time_known = True

    def _is_ours(self, manifest: Manifest) -> bool:
        """Whether our readers can load a base: one of another spec is none to them."""
        return manifest.model_hash == self._table_shard.model_hash

    def _publish_rows(self, table: EmbeddingTable, ref: DenseRef | None, *, action_times: bool) -> Publication:
        config, writer, ours = self.config, self._writer, self._table_shard
        newest = self._freshness.without_action_times()
        of_last = self._freshness.sampled(config.freshness_samples) if action_times else newest
        key = f"{ours.table}|{ours.shard}".encode()
        # What a block has beside its rows; up to thousands of action times, so it is measured.
        header_bytes = len(key) + len(encode(self._block(table, NO_FIDS, NO_FIDS, of_last))) + _VARINT_BYTES
        size = block_rows(table.dim, config.max_block_rows, config.max_block_bytes - header_bytes)
        taken = table.touched.take()
        try:
            fids = np.union1d(taken, self._republish) if len(self._republish) else taken
            live = table.find(fids) >= 0
            upserts, tombstones = fids[live], fids[~live]
            pieces = [(upserts[i : i + size], NO_FIDS) for i in range(0, len(upserts), size)]
            pieces += [(NO_FIDS, tombstones[i : i + size]) for i in range(0, len(tombstones), size)]
            pieces = pieces or [(NO_FIDS, NO_FIDS)]
            sent = 0
            for number, (upserted, removed) in enumerate(pieces, start=1):
                freshness = of_last if number == len(pieces) else newest
                block = self._block(table, upserted, removed, freshness)
                sent += writer.append(key, block)
                if number % config.blocks_in_flight == 0:
                    writer.commit()
            if ref is not None:
                writer.append(f"dense|{ours.shard}".encode(), replace(ref, sequence=writer.sequence))
            writer.commit()
        except BaseException:
            # Whatever happened, some of it may be in the log, or get there later: this epoch is over.
            table.touched.put_back()
            writer.abandon()
            raise
        table.touched.acknowledge()
        self._republish = NO_FIDS
        if action_times:
            self._freshness = newest
        writer.account()
        return Publication(
            epoch=writer.epoch,
            blocks=len(pieces),
            rows=len(upserts),
            tombstones=len(tombstones),
            bytes=sent,
            dense_version=None if ref is None else ref.version,
        )

    def _block(self, table: EmbeddingTable, fids: Int64s, tombstones: Int64s, freshness: Freshness) -> DeltaBlock:
        return build_block(
            self._table_shard,
            epoch=self._writer.epoch,
            sequence=self._writer.sequence,
            dim=table.dim,
            fids=fids,
            rows=table.values(fids),
            tombstones=tombstones,
            freshness=freshness,
        )

    def _write_dense(self, dense: Dense) -> DenseRef:
        writer, ours = self._writer, self._table_shard
        version = self._version + 1
        path, sha256 = self._store.write_dense(version, dense)
        self._version = version
        return DenseRef(
            model=ours.model,
            shard=ours.shard,
            epoch=writer.epoch,
            sequence=writer.sequence,
            model_hash=ours.model_hash,
            version=version,
            path=path,
            sha256=sha256,
            newest_event_ms=self._freshness.newest_event_ms,
        )


def _over(last_ms: int | None, interval_s: float, now_ms: int) -> bool:
    # A clock that was set back would put everything off for as long.
    return last_ms is None or not 0 <= now_ms - last_ms < interval_s * 1000

"""The records of the wire as immutable values over NumPy arrays (views of the received bytes where possible).

Shapes: N impressions, n rows, S slots (Sc context + Si item), Dd dense features, T tasks, F fids in all.
Two-dimensional columns are kept flat: their width is the spec's business, not the record's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

from rillet.schemas.arrays import AnyArray, Float32s, Int32s, Int64s, UInt8s, UInt16s, range_indices, range_starts
from rillet.schemas.example_rows import join_rows

#: Stands in time columns where there is no such time.
NO_TIME_MS = -1
#: Times of events lie before this (the year 2106): tables keep them as 32-bit seconds.
MAX_TIME_MS = (1 << 32) * 1000
#: An example block has at most so many encoded bytes, which every topic, producer and sink of rillet takes.
MAX_BLOCK_BYTES = 15 << 20
#: Action times that a merged :class:`Freshness` keeps at most, so that an outage does not fill the memory.
MAX_ACTION_TIMES = 65_536


class LabelKind(IntEnum):
    """Why a row carries the label that it carries, and so which other rows its pair may have."""

    #: an action came, and the pair has no other row
    POSITIVE = 0
    #: no action came in time; one that came later has made a LATE_POSITIVE
    NEGATIVE = 1
    #: an action came after the pair's NEGATIVE was sent, which this row takes back
    LATE_POSITIVE = 2
    #: an action came after the pair's PROVISIONAL negative, which was sent where the sample kept it
    CORRECTION = 3
    #: sent at once, as if no action were to come
    PROVISIONAL = 4


#: uint8 by LabelKind: the label of every row of that kind
LABEL_OF_KIND = np.array([kind not in (LabelKind.NEGATIVE, LabelKind.PROVISIONAL) for kind in LabelKind], np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureEvent:
    """What one request was shown: ``features`` topic, key request_id."""

    request_id: str
    event_time_ms: int
    spec_hash: int
    context_fids: Int64s
    impression_ids: Int64s
    item_fids: Int64s
    context_lengths: UInt16s | None = None
    item_lengths: UInt16s | None = None
    dense: Float32s = field(default_factory=lambda: np.empty(0, np.float32))
    served_logits: Float32s | None = None
    model: str = ""
    model_version: int = 0
    exposed: UInt8s | None = None

    def shown(self) -> FeatureEvent:
        """The event of the impressions that were exposed, alone; itself where it does not say which were."""
        if self.exposed is None:
            return self
        n, chosen = len(self.impression_ids), np.flatnonzero(self.exposed)

        def rows(column: AnyArray) -> Any:
            return column.reshape(n, -1)[chosen].reshape(-1)

        lengths, item_fids = self.item_lengths, self.item_fids
        if lengths is None:
            item_fids = rows(item_fids)
        else:
            counts = lengths.reshape(n, -1).sum(axis=1, dtype=np.int64)
            item_fids = item_fids[range_indices(range_starts(counts)[chosen], counts[chosen])]
        return replace(
            self,
            impression_ids=self.impression_ids[chosen],
            item_fids=item_fids,
            item_lengths=None if lengths is None else rows(lengths),
            dense=rows(self.dense),
            served_logits=None if self.served_logits is None else rows(self.served_logits),
            exposed=None,
        )


@dataclass(frozen=True, slots=True)
class ActionEvent:
    """What a user did with one impression: ``actions`` topic, key request_id."""

    request_id: str
    event_time_ms: int
    impression_id: int
    action: str
    value: float | None = None
    action_id: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ExampleBlock:
    """n labelled rows in columns: ``examples`` topic, key bucket. The context of a request is there once."""

    spec_hash: int
    bucket: int
    request_ids: list[str]
    request_index: Int32s
    impression_ids: Int64s
    context_fids: Int64s
    item_fids: Int64s
    dense: Float32s
    labels: UInt8s
    mask: UInt8s
    sampling_rate: Float32s
    label_kind: UInt8s
    feature_time_ms: Int64s
    action_time_ms: Int64s
    feature_ingest_ms: Int64s
    action_ingest_ms: Int64s
    context_lengths: UInt16s | None = None
    item_lengths: UInt16s | None = None
    served_logits: Float32s | None = None

    def __len__(self) -> int:
        return len(self.impression_ids)

    def row_fids(self) -> tuple[Int64s, UInt16s | None]:
        """The fids of each row, its request's context first, and uint16[n x S] of values per slot; made at each call.

        :raises ValueError, IndexError: the columns do not fit together; :meth:`FeatureSpec.check_block` says how.
        """
        return join_rows(
            self.context_fids,
            self.context_lengths,
            self.item_fids,
            self.item_lengths,
            self.request_index,
            len(self.request_ids),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Freshness:
    """How new the examples are that rows were trained on; travels from the trainer to the server in a block.

    The newest times are what the examples have reached so far, and go back where a wrong clock had moved them. The action
    times are only of the examples since the last publication.
    """

    newest_event_ms: int = NO_TIME_MS
    newest_ingest_ms: int = NO_TIME_MS
    #: int64[k], ingest times of actions, in the order in which they were trained on; evenly spaced in it
    action_ingest_ms: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    #: actions trained on whose times are not among them
    action_times_left_out: int = 0

    @property
    def actions(self) -> int:
        """Actions that the times stand for."""
        return len(self.action_ingest_ms) + self.action_times_left_out

    def merged(self, later: Freshness) -> Freshness:
        """Both together: the later's newest times where it has any, and at most ``MAX_ACTION_TIMES`` of the action times.

        Every action counts the same, however often its time was merged: one spacing, a power of two, holds for all.
        """
        stride = max(self._stride(), later._stride())
        while True:
            times = np.concatenate([self._every(stride, 0), later._every(stride, self.actions)])
            if len(times) <= MAX_ACTION_TIMES:
                break
            stride *= 2
        return Freshness(
            self.newest_event_ms if later.newest_event_ms == NO_TIME_MS else later.newest_event_ms,
            self.newest_ingest_ms if later.newest_ingest_ms == NO_TIME_MS else later.newest_ingest_ms,
            times,
            self.actions + later.actions - len(times),
        )

    def sampled(self, limit: int) -> Freshness:
        """At most ``limit`` of the action times, evenly spaced in their order.

        The first and the last are among them; a single one is that in the middle.
        """
        count = len(self.action_ingest_ms)
        if count <= limit:
            return self
        spaced = np.linspace(0, count - 1, limit) if limit > 1 else np.full(limit, (count - 1) / 2)
        times = self.action_ingest_ms[spaced.round().astype(np.int64)]
        return Freshness(self.newest_event_ms, self.newest_ingest_ms, times, self.actions - len(times))

    def without_action_times(self) -> Freshness:
        """The newest times alone."""
        return Freshness(self.newest_event_ms, self.newest_ingest_ms)

    def _stride(self) -> int:
        """Actions per time, as the nearest power of two."""
        kept = len(self.action_ingest_ms)
        return 1 << round(math.log2(self.actions / kept)) if kept else 1

    def _every(self, stride: int, before: int) -> Int64s:
        """One time per ``stride`` actions, counted from ``before`` actions earlier; ``stride`` is a multiple of ours."""
        ours = self._stride()
        ranks = before + ours * np.arange(len(self.action_ingest_ms))
        return self.action_ingest_ms[ranks % stride < ours]


@dataclass(frozen=True, slots=True)
class EpochClaim:
    """Opens a writer's epoch: ``deltas`` topic, key claim|shard. The first claim of an epoch in the log holds."""

    #: of every claim: it is the first record of its epoch
    sequence: ClassVar[int] = 0

    model: str
    shard: int
    epoch: int
    model_hash: int
    #: unique to the process that claims
    writer: str


@dataclass(frozen=True, slots=True, eq=False)
class DeltaBlock:
    """Absolute rows of a table shard that changed: ``deltas`` topic, key table|shard."""

    model: str
    table: str
    shard: int
    epoch: int
    sequence: int
    model_hash: int
    dim: int
    fids: Int64s
    rows: Float32s
    tombstones: Int64s
    freshness: Freshness
    #: CRC-32C of fids, rows and tombstones
    crc32c: int


@dataclass(frozen=True, slots=True)
class DenseRef:
    """Announces a version of the dense weights in the object store: ``deltas`` topic, key dense|shard."""

    model: str
    shard: int
    epoch: int
    sequence: int
    model_hash: int
    version: int
    path: str
    sha256: str
    newest_event_ms: int


#: What the ``deltas`` topic holds; the three share one sequence of an epoch.
DeltaRecord = EpochClaim | DeltaBlock | DenseRef
Record = FeatureEvent | ActionEvent | ExampleBlock | DeltaRecord

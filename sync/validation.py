"""Validates the records of the log for one reader: what may be applied, what is refused and why, what is missing.

Pure: bytes and a fence in, a result out. It neither reads the log nor holds rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rillet.schemas import DeltaBlock, DenseRef, EpochClaim, RecordError, decode
from rillet.sync.blocks import TableShard, verify_block
from rillet.sync.errors import BlockError
from rillet.sync.fence import Fence, Order


class Incident(StrEnum):
    """What a replica counts and reports. All but the last four are refusals of one record."""

    #: no delta record, or malformed
    UNDECODABLE = "undecodable"
    #: checksum, widths or numbers are wrong
    BAD_BLOCK = "bad_block"
    OTHER_MODEL = "other_model"
    OTHER_TABLE = "other_table"
    OTHER_SPEC = "other_spec"
    #: of a writer that has been replaced
    STALE_EPOCH = "stale_epoch"
    #: a sequence seen before
    DUPLICATE = "duplicate"
    #: sequence numbers are missing before this record, which itself is applied
    GAP = "gap"
    #: the position asked for isn't in the log any more
    TRUNCATED = "truncated"
    BAD_BASE = "bad_base"
    BAD_DENSE = "bad_dense"


@dataclass(frozen=True, slots=True)
class Validation:
    """What is to be done with one record."""

    #: set when it is to be applied
    record: DeltaBlock | DenseRef | None = None
    #: set when something is wrong with it
    incident: Incident | None = None
    detail: str = ""
    #: rows may be missing now: read again, and if that does not help, wait for a newer base
    rows_missing: bool = False
    #: the fence after this record; None when the record does not move it
    fence: Fence | None = None


def validate(value: bytes, table_shard: TableShard, dim: int, fence: Fence) -> Validation:
    """Validates the record that stands after all those that made ``fence``.

    :param dim: width of the rows that the reader holds.
    """
    try:
        record = decode(value)
    except RecordError as error:
        return Validation(incident=Incident.UNDECODABLE, detail=str(error), rows_missing=True)
    if not isinstance(record, EpochClaim | DeltaBlock | DenseRef):
        detail = f"{type(record).__name__} does not belong in the delta log"
        return Validation(incident=Incident.UNDECODABLE, detail=detail, rows_missing=True)
    if record.model != table_shard.model:
        detail = f"model {record.model!r} instead of {table_shard.model!r}"
        return Validation(incident=Incident.OTHER_MODEL, detail=detail)
    if record.shard != table_shard.shard:
        detail = f"shard {record.shard} instead of {table_shard.shard}"
        return Validation(incident=Incident.OTHER_TABLE, detail=detail)

    place = f"epoch {record.epoch} sequence {record.sequence}"
    order = fence.order_of(record.epoch, record.sequence)
    if order is Order.STALE:
        detail = f"{place}, while epoch {fence.epoch} is at work"
        return Validation(incident=Incident.STALE_EPOCH, detail=detail)
    if order is Order.SEEN:
        detail = f"{place}, after sequence {fence.next_sequence - 1}"
        return Validation(incident=Incident.DUPLICATE, detail=detail)
    after = fence.after(record.epoch, record.sequence)
    gap = order is Order.GAP

    if not isinstance(record, EpochClaim) and record.model_hash != table_shard.model_hash:
        detail = f"{place}: feature spec, crosses and transforms {record.model_hash:#x} instead of {table_shard.model_hash:#x}"
        return Validation(None, Incident.OTHER_SPEC, detail, gap, after)
    if isinstance(record, DeltaBlock):
        if record.table != table_shard.table:
            detail = f"{place}: table {record.table!r} instead of {table_shard.table!r}"
            return Validation(None, Incident.OTHER_TABLE, detail, gap, after)
        try:
            if record.dim != dim:
                raise BlockError(f"dim {record.dim} instead of {dim}")
            verify_block(record)
        except BlockError as error:
            return Validation(None, Incident.BAD_BLOCK, f"{place}: {error}", True, after)
    applied = None if isinstance(record, EpochClaim) else record
    if gap:
        detail = f"{place}, where sequence {fence.expected_sequence(record.epoch)} was expected"
        return Validation(applied, Incident.GAP, detail, True, after)
    return Validation(applied, fence=after)

"""Judges the records of the log for one reader: what may be applied, what is refused and why, what is missing.

Pure: bytes and a position in, a verdict out. It neither reads the log nor holds rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rillet.schemas import DeltaBlock, DenseRef, RecordError, decode
from rillet.sync.blocks import CLAIM_PREFIX, verify_block
from rillet.sync.errors import BlockError
from rillet.sync.fence import Fence, Order
from rillet.sync.log import LogRecord


class Incident(StrEnum):
    """What a replica counts and reports. All but the last four are refusals of one record."""

    #: no delta record, or malformed
    UNDECODABLE = "undecodable"
    #: checksum, widths or numbers are wrong
    BAD_BLOCK = "bad_block"
    OTHER_MODEL = "other_model"
    OTHER_TABLE = "other_table"
    OTHER_SPEC = "other_spec"
    #: a writer that has been replaced
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
class Verdict:
    """What is to be done with one record."""

    #: set when it is to be applied
    record: DeltaBlock | DenseRef | None
    #: set when something is wrong with it
    incident: Incident | None = None
    detail: str = ""
    #: rows may be missing now: read again, and if that does not help, wait for a newer base
    damaging: bool = False
    #: the fence behind this record, to be used once the verdict is acted on
    fence: Fence | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """What one reader takes: a table of a model under one feature spec."""

    model: str
    table: str
    shard: int
    spec_hash: int
    dim: int

    def judge(self, fence: Fence, log_record: LogRecord) -> Verdict:
        """The verdict on a record that stands behind everything that made ``fence``."""
        try:
            record = decode(log_record.value)
        except RecordError as error:
            return Verdict(None, Incident.UNDECODABLE, str(error), damaging=True)
        if not isinstance(record, DeltaBlock | DenseRef):
            return Verdict(None, Incident.UNDECODABLE, f"a {type(record).__name__} in the delta log", damaging=True)
        if record.model != self.model:
            return Verdict(None, Incident.OTHER_MODEL, f"model {record.model!r} instead of {self.model!r}")
        place = f"epoch {record.epoch} sequence {record.sequence}"
        if record.shard != self.shard:
            return Verdict(None, Incident.OTHER_TABLE, f"shard {record.shard} instead of {self.shard}")
        order = fence.judge(record.epoch, record.sequence)
        if order is Order.STALE:
            return Verdict(None, Incident.STALE_EPOCH, f"{place}, while epoch {fence.epoch} is at work")
        if order is Order.SEEN:
            return Verdict(None, Incident.DUPLICATE, f"{place}, after sequence {fence.next_sequence - 1}")
        behind = fence.after(record.epoch, record.sequence)
        gap = order is Order.GAP
        incident = Incident.GAP if gap else None
        detail = f"{place}, where {_expected(fence, record.epoch)} was expected" if gap else ""
        if isinstance(record, DeltaBlock) and record.table.startswith(CLAIM_PREFIX):
            return Verdict(None, incident, detail, gap, behind)
        if record.spec_hash != self.spec_hash:
            detail = f"{place}: feature spec {record.spec_hash:#x} instead of {self.spec_hash:#x}"
            return Verdict(None, Incident.OTHER_SPEC, detail, gap, behind)
        if isinstance(record, DeltaBlock):
            if record.table != self.table:
                detail = f"{place}: table {record.table!r} instead of {self.table!r}"
                return Verdict(None, Incident.OTHER_TABLE, detail, gap, behind)
            try:
                if record.dim != self.dim:
                    raise BlockError(f"dim {record.dim} instead of {self.dim}")
                verify_block(record)
            except BlockError as error:
                return Verdict(None, Incident.BAD_BLOCK, f"{place}: {error}", True, behind)
        return Verdict(record, incident, detail, gap, behind)


def _expected(fence: Fence, epoch: int) -> str:
    return f"sequence {fence.next_sequence if epoch == fence.epoch else 0}"

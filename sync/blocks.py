"""Delta blocks out of rows, and the check that a block is what was built.

Rows are absolute, so that applying a block twice is applying it once. The CRC-32C covers fids, rows and
tombstones in this order, as their little-endian bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import google_crc32c
import numpy as np

from rillet.schemas import DeltaBlock, Freshness
from rillet.schemas.arrays import Float32s, Int64s
from rillet.sync.errors import BlockError

NO_FIDS: Int64s = np.empty(0, np.int64)
NO_FIDS.flags.writeable = False


@dataclass(frozen=True, slots=True)
class TableShard:
    """What one publisher writes and its replicas follow: a shard of a model's table, for one feature spec and its crosses."""

    model: str
    #: of the feature spec with its crosses
    model_hash: int
    table: str = "embeddings"
    shard: int = 0


def block_rows(dim: int, max_rows: int, max_bytes: int) -> int:
    """Rows of a block that holds neither more than ``max_rows`` rows nor ``max_bytes`` bytes, at least 1."""
    return max(1, min(max_rows, max_bytes // (8 + 4 * dim)))


def checksum(fids: Int64s, rows: Float32s, tombstones: Int64s) -> int:
    """CRC-32C of the three columns."""
    crc = 0
    for column, dtype in ((fids, "<i8"), (rows, "<f4"), (tombstones, "<i8")):
        crc = google_crc32c.extend(crc, np.ascontiguousarray(column, dtype).tobytes())
    return int(crc)


def build_block(
    table_shard: TableShard,
    *,
    epoch: int,
    sequence: int,
    dim: int,
    fids: Int64s = NO_FIDS,
    rows: Float32s | None = None,
    tombstones: Int64s = NO_FIDS,
    freshness: Freshness | None = None,
) -> DeltaBlock:
    """A block with its checksum.

    :param rows: float32[n, dim], the rows of ``fids`` int64[n].
    :param tombstones: int64[k], fids to forget.
    :raises ValueError: the shapes do not fit.
    """
    values = np.empty((0, dim), np.float32) if rows is None else rows
    if values.shape != (len(fids), dim):
        raise ValueError(f"rows of shape {values.shape} for {len(fids)} fids of dim {dim}")
    return DeltaBlock(
        model=table_shard.model,
        table=table_shard.table,
        shard=table_shard.shard,
        epoch=epoch,
        sequence=sequence,
        model_hash=table_shard.model_hash,
        dim=dim,
        fids=fids,
        rows=values.reshape(-1),
        tombstones=tombstones,
        freshness=freshness or Freshness(),
        crc32c=checksum(fids, values, tombstones),
    )


def verify_block(block: DeltaBlock) -> None:
    """Returns if the block is as it was built.

    :raises BlockError: wrong checksum, widths that do not fit, a number that is not finite, a fid below 1.
    """
    if (found := checksum(block.fids, block.rows, block.tombstones)) != block.crc32c:
        raise BlockError(f"crc32c {found:#010x} instead of {block.crc32c:#010x}")
    if len(block.rows) != len(block.fids) * block.dim:
        raise BlockError(f"{len(block.rows)} numbers for {len(block.fids)} fids of dim {block.dim}")
    if not np.isfinite(block.rows).all():
        raise BlockError("a number in its rows is not finite")
    for fids in (block.fids, block.tombstones):
        if len(fids) and fids.min() <= 0:
            raise BlockError(f"fid {fids.min()} cannot have a row")


def rows_of(block: DeltaBlock) -> Float32s:
    """The rows of a verified block, float32[n, dim]."""
    return block.rows.reshape(len(block.fids), block.dim)

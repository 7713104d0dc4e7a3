"""Settings of publisher, store and replica: plain values, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rillet.schemas.ranges import check_above_zero


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """How often what is published, in which portions, and how much of the past is kept."""

    #: seconds between publications of touched rows
    sparse_interval_s: float = 10.0
    #: seconds between versions of the dense weights
    dense_interval_s: float = 60.0
    #: seconds between bases; the log's retention has to be longer
    base_interval_s: float = 3600.0
    #: touched keys at which a publication is due before its interval is over
    max_touched: int = 1_000_000
    #: rows per block, at most
    max_block_rows: int = 8192
    #: bytes per block, at most: below the producer's and the topic's message limit
    max_block_bytes: int = 900_000
    #: blocks in flight to the log at a time
    blocks_in_flight: int = 64
    #: seconds in which the log has to acknowledge
    flush_timeout_s: float = 30.0
    #: ingest times of actions that one publication carries to measure freshness, evenly sampled above it
    freshness_samples: int = 4096
    #: newest bases that are kept
    keep_bases: int = 3
    #: newest dense blobs that are kept, beside those in the bases
    keep_dense: int = 10

    def __post_init__(self) -> None:
        check_above_zero(self, *(field.name for field in fields(self)))


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where bases and dense blobs lie."""

    #: fsspec URL of the object store, or a path
    url: str = "store"

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("url: empty; give an fsspec URL or a path")


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """How a replica reads the log and applies it."""

    #: records fetched from the log per poll
    fetch_records: int = 64
    #: rows fetched and not yet applied at which a replica stops fetching
    max_queued_rows: int = 262_144
    #: rows applied between two batches, at most
    slice_rows: int = 2048
    #: seconds between looks for a newer base while a replica waits for one
    base_check_interval_s: float = 10.0

    def __post_init__(self) -> None:
        check_above_zero(self, *(field.name for field in fields(self)))

"""Settings of publisher, store and replica: plain values, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rillet.schemas.ranges import check_above_zero


@dataclass(frozen=True, slots=True)
class PublisherConfig:
    """How often the trainer publishes what it learned, in which portions, and how much of the past it keeps."""

    #: seconds between publications of the embedding rows that changed
    sparse_interval_s: float = 10.0
    #: seconds between versions of the dense weights, everything but the embeddings
    dense_interval_s: float = 60.0
    #: seconds between bases, which are the whole model; the deltas topic has to be kept for longer
    base_interval_s: float = 3600.0
    #: changed rows at which a publication is due before its interval is over
    max_touched: int = 1_000_000
    #: rows per record of the deltas topic, at most
    max_block_rows: int = 8192
    #: bytes per record, at most: below what topic and broker take
    max_block_bytes: int = 900_000
    #: records that may be on their way to the broker at a time
    blocks_in_flight: int = 64
    #: seconds in which the broker has to acknowledge; then the publication is tried again
    flush_timeout_s: float = 30.0
    #: ingest times of actions that one publication carries to measure freshness, evenly sampled above it
    freshness_samples: int = 4096
    #: newest bases that are kept
    keep_bases: int = 3
    #: newest versions of the dense weights that are kept, beside those in the bases
    keep_dense: int = 10

    def __post_init__(self) -> None:
        check_above_zero(self, *(field.name for field in fields(self)))


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where bases and dense weights lie."""

    #: fsspec URL of the object store, or a path below data_dir; trainer and servers have to reach the same
    url: str = "store"

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("url: empty; give an fsspec URL or a path")


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """How a server follows the deltas topic."""

    #: records fetched from the topic at a time
    fetch_records: int = 64
    #: rows fetched and not applied yet at which it stops fetching
    max_queued_rows: int = 262_144
    #: rows applied between two batches of requests, at most
    slice_rows: int = 2048
    #: seconds between looks for a newer base while it waits for one, after a gap in the topic
    base_check_interval_s: float = 10.0

    def __post_init__(self) -> None:
        check_above_zero(self, *(field.name for field in fields(self)))

"""Bases written at once, where the trainer writes them in the background."""

from __future__ import annotations

from rillet.embeddings import EmbeddingTable
from rillet.sync import Dense, Manifest, ModelStore, Publisher


def write_base(
    publisher: Publisher,
    store: ModelStore,
    table: EmbeddingTable,
    *,
    now_ms: int,
    dense: Dense,
    program: bytes,
    spec_toml: str,
) -> Manifest:
    """A base of now in the store; older bases and dense blobs are then collected."""
    manifest = store.write_base(
        publisher.snapshot(table, now_ms=now_ms, dense=dense, program=program, spec_toml=spec_toml)
    )
    store.collect_garbage(publisher.config.keep_bases, publisher.config.keep_dense)
    return manifest

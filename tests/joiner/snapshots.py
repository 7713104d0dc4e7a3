"""What Flink leaves when a snapshot is complete."""

from __future__ import annotations

from pathlib import Path


def complete(path: Path, number: int = 1_000) -> Path:
    """A snapshot's folder; its file begins as Flink's, with a magic number, a version and the number of the snapshot.

    :param number: checkpoints and savepoints of a job are numbered in one row; a savepoint of its end has the highest.
    """
    path.mkdir(parents=True, exist_ok=True)
    header = b"\x49\x60\x67\x2d" + (6).to_bytes(4, "big") + number.to_bytes(8, "big")
    (path / "_metadata").write_bytes(header + b"what the snapshot holds")
    return path

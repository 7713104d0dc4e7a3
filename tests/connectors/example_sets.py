"""Example files for tests: rows that can be told apart, and a storage that is killed or fails at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import fsspec
import numpy as np
from fsspec.implementations.memory import MemoryFileSystem

from rillet.connectors.example_manifest import read_manifest
from rillet.connectors.file_source import FilePlan, FileSource
from rillet.schemas import ExampleBlock, FeatureSpec, encode
from rillet.sync.files import Files
from rillet.trainer import RawRecord, ReadBlock
from tests.trainer.blocks import RAGGED, make_block

HOUR_MS = 3_600_000


def numbered_blocks(count: int, rows: int = 7, hours: int = 3) -> list[ExampleBlock]:
    """Blocks whose impression ids number all rows, of requests in several hours."""
    rng = np.random.default_rng(0)
    blocks = []
    for number in range(count):
        hour = np.sort(rng.integers(0, hours, rows))
        block = make_block(rng, rows)
        blocks.append(
            replace(
                block,
                request_ids=[f"request-{number}-{i}" for i in range(rows)],
                request_index=np.arange(rows, dtype=np.int32),
                context_fids=block.context_fids[block.request_index],
                impression_ids=np.arange(number * rows, (number + 1) * rows),
                feature_time_ms=hour * HOUR_MS + number,
                action_time_ms=np.where(block.action_time_ms >= 0, hour * HOUR_MS + number + 1, -1),
            )
        )
    return blocks


def two_partitions(blocks: Sequence[ExampleBlock]) -> list[RawRecord]:
    """The blocks as records of two partitions in turn."""
    return [RawRecord(number % 2, number // 2, encode(block)) for number, block in enumerate(blocks)]


def as_read(blocks: Sequence[ExampleBlock]) -> list[ReadBlock]:
    """The same as read."""
    return [ReadBlock(number % 2, number // 2, block) for number, block in enumerate(blocks)]


def read_all(
    url: str,
    plan: FilePlan | None = None,
    start: int = 0,
    spec: FeatureSpec = RAGGED,
    limit: int | None = None,
) -> list[ReadBlock]:
    """The records of a set of files, the first ``limit`` of them."""
    if plan is None:
        manifest = read_manifest(Files(url))
        assert manifest is not None
        plan = FilePlan.of(manifest)
    source = FileSource(url, spec, plan, {-1: (start, 0)})
    source.start()
    found: list[ReadBlock] = []
    most = plan.records if limit is None else limit
    while len(found) < most and (records := source.poll(min(10, most - len(found)), 0.0)) is not None:
        found += records
    source.close()
    return found


def impressions(records: Sequence[ReadBlock]) -> list[int]:
    """Impression ids of all rows, in order."""
    return [number for record in records if record.block is not None for number in record.block.impression_ids.tolist()]


class KilledError(BaseException):
    """Stands for a kill: nothing handles it."""


class FaultyFileSystem(MemoryFileSystem):
    """A file system in memory, on which a step that changes something is cut off or fails."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    #: number of the step that goes wrong, counted from 0; None for none
    fails_at: ClassVar[int | None] = None
    #: killed in the midst of the step, or after it; an OSError otherwise
    how: ClassVar[str] = "midst"
    steps: ClassVar[int] = 0

    @classmethod
    def arm(cls, fails_at: int | None, how: str = "midst") -> None:
        cls.fails_at, cls.how, cls.steps = fails_at, how, 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._step(
            lambda: super(FaultyFileSystem, self).pipe_file(path, value, mode=mode),
            lambda: super(FaultyFileSystem, self).pipe_file(path, value[: len(value) // 2], mode=mode),
        )

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        self._step(lambda: super(FaultyFileSystem, self).mv(path1, path2, **kwargs), lambda: None)

    def rm_file(self, path: str) -> None:
        if path.endswith(".part"):  # what mv does in its second half
            super().rm_file(path)
        else:
            self._step(lambda: super(FaultyFileSystem, self).rm_file(path), lambda: None)

    def _step(self, whole: Any, half: Any) -> None:
        cls, number = FaultyFileSystem, FaultyFileSystem.steps
        cls.steps += 1
        if number != cls.fails_at:
            whole()
        elif cls.how == "midst":
            half()
            raise KilledError
        elif cls.how == "after":
            whole()
            raise KilledError
        else:
            half()
            raise OSError("the storage is away")


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)

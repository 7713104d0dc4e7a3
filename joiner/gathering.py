"""Rows of many events in one block, for an engine that can wait: one that hands blocks on at its commits, and never crashes.

A block for each event costs most of a joiner's time, and most of what it takes to read them. Flink's records have to be
out before the checkpoint that follows their event, so its job builds them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.entry import Entry
from rillet.joiner.rows import Positive, Rows
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, LabelKind
from rillet.schemas.arrays import Bools, Int64s


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of one event: impressions ``index`` of a request for the tasks ``task``, int64[k]; the rest is of all."""

    entry: Entry
    index: Int64s
    task: Int64s
    kind: LabelKind
    action_time_ms: int = NO_TIME_MS
    action_ingest_ms: int = NO_TIME_MS


class GatheringBuilder(BlockBuilder):
    """Builds the same rows in the same order, but those of single events only when they are asked for, many in a block."""

    def __init__(self, spec: FeatureSpec, block_rows: int) -> None:
        """
        :param block_rows: rows of a block at most, whatever the joiner asks for.
        """
        super().__init__(spec)
        self._block_rows = block_rows
        self._gathered: list[_Part] = []

    def gathered(self, bucket: int) -> list[ExampleBlock]:
        """Blocks of what was gathered since they were last asked for."""
        parts = self._gathered
        if not parts:
            return []
        self._gathered = []
        counts = np.array([len(part.index) for part in parts])
        rows = Rows(
            np.repeat(np.arange(len(parts)), counts),
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.task for part in parts]),
            np.repeat(np.array([part.kind for part in parts], np.uint8), counts),
            np.repeat(np.array([part.action_time_ms for part in parts], np.int64), counts),
            np.repeat(np.array([part.action_ingest_ms for part in parts], np.int64), counts),
        )
        return super().build(bucket, [part.entry for part in parts], rows, self._block_rows)

    def positives(self, bucket: int, entry: Entry, rows: Sequence[Positive], block_rows: int) -> list[ExampleBlock]:
        """See :class:`BlockBuilder`; gives no block yet."""
        for index, task, kind, action_time_ms, action_ingest_ms in rows:
            part = _Part(entry, np.array([index]), np.array([task]), kind, action_time_ms, action_ingest_ms)
            self._gathered.append(part)
        return []

    def provisional(
        self, bucket: int, entry: Entry, tasks: Sequence[int], chosen: Bools, block_rows: int
    ) -> list[ExampleBlock]:
        """See :class:`BlockBuilder`; gives no block yet."""
        which, every = chosen.nonzero()
        self._gathered.append(_Part(entry, every, np.array(tasks)[which], LabelKind.PROVISIONAL))
        return []

    def build(self, bucket: int, entries: Sequence[Entry], rows: Rows, block_rows: int) -> list[ExampleBlock]:
        """See :class:`BlockBuilder`; what was gathered before comes first."""
        return self.gathered(bucket) + super().build(bucket, entries, rows, self._block_rows)

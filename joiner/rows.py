"""Which rows blocks are made of, as columns: so that many requests are gathered without Python code per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rillet.joiner.entry import TIMES, Entry
from rillet.schemas import NO_TIME_MS, LabelKind
from rillet.schemas.arrays import Int64s, UInt8s


class Positive(NamedTuple):
    """A row of label 1 that goes out with its action.

    :param impression: its number in the request.
    """

    impression: int
    task: int
    kind: LabelKind
    action_time_ms: int
    action_ingest_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which rows blocks are made of: row i is impression ``index[i]`` of request ``request[i]``."""

    request: Int64s
    index: Int64s
    task: Int64s
    kind: UInt8s
    action_time_ms: Int64s
    action_ingest_ms: Int64s

    @classmethod
    def of_negatives(cls, indices: Sequence[Int64s], task: int) -> Rows:
        """Negatives of a task, request after request."""
        counts = np.fromiter((len(i) for i in indices), np.int64, len(indices))
        index = np.concatenate(indices) if len(indices) else np.empty(0, np.int64)
        no_time = np.full(len(index), NO_TIME_MS, np.int64)
        kind = np.full(len(index), LabelKind.NEGATIVE, np.uint8)
        request, tasks = np.repeat(np.arange(len(indices)), counts), np.full(len(index), task)
        return cls(request, index, tasks, kind, no_time, no_time)

    @classmethod
    def of_positives(cls, entries: Sequence[Entry], task: int) -> Rows:
        """The positives of a task whose times the entries have kept."""
        times = np.frombuffer(b"".join(entry.times for entry in entries), TIMES)
        counts = np.fromiter((len(entry.times) // TIMES.itemsize for entry in entries), np.int64, len(entries))
        sizes = np.fromiter((len(entry.event.impression_ids) for entry in entries), np.int64, len(entries))
        request = np.repeat(np.arange(len(entries)), counts)
        of_task, index = np.divmod(times["pair"].astype(np.int64), sizes[request])
        keep = of_task == task
        kind = np.full(int(keep.sum()), LabelKind.POSITIVE, np.uint8)
        action_time_ms, action_ingest_ms = times["action_time_ms"][keep], times["action_ingest_ms"][keep]
        return cls(request[keep], index[keep], of_task[keep], kind, action_time_ms, action_ingest_ms)

    def merged(self, other: Rows) -> Rows:
        """Both, in order of request and impression."""
        request, index = np.concatenate([self.request, other.request]), np.concatenate([self.index, other.index])
        order = np.lexsort((index, request))
        return Rows(
            request[order],
            index[order],
            np.concatenate([self.task, other.task])[order],
            np.concatenate([self.kind, other.kind])[order],
            np.concatenate([self.action_time_ms, other.action_time_ms])[order],
            np.concatenate([self.action_ingest_ms, other.action_ingest_ms])[order],
        )

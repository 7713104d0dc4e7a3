"""The examples that a joiner should have made of two recorded topics, as columns over all impressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rillet.schemas import FeatureSpec, LabelKind
from rillet.schemas.arrays import Bools, Float32s, Int64s, UInt16s
from rillet.schemas.spec import LabelMode


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedExamples:
    """R requests with M impressions and what is due for each of T tasks.

    Requests and impressions are in order of arrival; impressions of request r are rows
    ``start[r]`` to ``start[r + 1]`` of every [M] column.
    """

    spec: FeatureSpec
    request_ids: list[str]
    number_of: dict[str, int]
    #: topic and partition of each request's feature event, and its place among all records that were read, int64[R]
    partitions: list[tuple[str, int]]
    arrival: Int64s
    #: int64[R]
    feature_time_ms: Int64s
    feature_ingest_ms: Int64s
    #: int64[R + 1]
    start: Int64s
    #: int64[M]: request number and id of each impression
    request: Int64s
    impression_ids: Int64s
    #: context fids of all requests, int64[R + 1] bounds into them, lengths uint16[R, Sc]
    context_fids: Int64s
    context_start: Int64s
    context_lengths: UInt16s
    #: item fids of all impressions, int64[M + 1] bounds, lengths uint16[M, Si]
    item_fids: Int64s
    item_start: Int64s
    item_lengths: UInt16s
    #: float32[M, Dd]
    dense: Float32s
    #: float32[M, T], NaN where the event had none
    served_logits: Float32s
    #: [M, T]: whether an action makes the pair positive, and the times of the first such action (-1 where none)
    positive: Bools
    action_time_ms: Int64s
    action_ingest_ms: Int64s
    #: float32[M, T]: the rate at which negatives like the pair are kept
    rates: Float32s
    #: bool[M, T]: whether the sample keeps the pair as a negative
    sampled: Bools
    #: bool[M, T]: whether the action of a positive can have come after the pair's negative was due
    may_be_late: Bools
    #: what happened to the events that made no label, by the names of the joiner's counters
    counts: dict[str, int]
    #: raw records that are dead letters
    unusable: int

    @property
    def immediate(self) -> Bools:
        """Tasks whose negatives are provisional, and go out whether an action comes or not: bool[T]."""
        return np.array([task.labels == "immediate" for task in self.spec.tasks], np.bool_)

    @property
    def emits_late(self) -> Bools:
        """Whether a late action on a pair still gives a row with label 1: bool[M, T]."""
        policies = np.array([task.late for task in self.spec.tasks])
        emits: Bools = (policies == "correct") | ((policies == "emit_unsampled") & ~self.sampled)
        return emits

    @property
    def marks_late(self) -> Bools:
        """Whether that row takes back a negative, and so is of a kind of its own: bool[M, T]."""
        return self.emits_late & self.sampled & ~self.immediate

    @property
    def negative(self) -> Bools:
        """Whether a row with label 0 is due of a pair when nothing was late, bool[M, T]; of ``positive`` one with 1."""
        due: Bools = self.sampled & (~self.positive | self.immediate)
        return due

    def find(self, requests: Int64s, impression_ids: Int64s) -> Int64s:
        """Rows of (request number, impression id) pairs, int64[n]; -1 where there is no such impression."""
        return find_pairs(self.request, self.impression_ids, requests, impression_ids)


def row_kind(mode: LabelMode, *, positive: bool) -> LabelKind:
    """The kind of the rows of a task that are not late, by its label mode."""
    if mode == "immediate":
        return LabelKind.CORRECTION if positive else LabelKind.PROVISIONAL
    return LabelKind.POSITIVE if positive else LabelKind.NEGATIVE


def find_pairs(in_a: Int64s, in_b: Int64s, a: Int64s, b: Int64s) -> Int64s:
    """Position of each pair (a, b) among the distinct pairs (in_a, in_b), -1 where absent; int64[n]."""
    if not len(in_a) or not len(a):
        return np.full(len(a), -1, np.int64)
    # Ids are ranked, so that a pair fits into one integer whatever the ids are.
    ids = np.unique(in_b)
    rank = np.minimum(np.searchsorted(ids, b), len(ids) - 1)
    known = (ids[rank] == b) & (a >= 0)
    keys = in_a * len(ids) + np.searchsorted(ids, in_b)
    order = np.argsort(keys, kind="stable")
    wanted = a * len(ids) + rank
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(known & (keys[place] == wanted), place, -1)

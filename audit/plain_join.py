"""The join of two recorded topics, plainly: what a joiner should have made of them.

Written from the description of the join alone, with all events at hand at once: no windows, no state, no
watermark, no shared code with the streaming joiner. It is the yardstick of the audit, and the labels of
the report's curves. Source of the hash: splitmix64 (Steele, Lea, Flood 2014) over BLAKE2b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from rillet.schemas import NO_TIME_MS, ActionEvent, FeatureEvent, FeatureSpec, RecordError
from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt16s


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """R requests with M impressions and their T labels.

    Requests and impressions are in order of arrival; impressions of request r are rows
    ``start[r]`` to ``start[r + 1]`` of every [M] column.
    """

    spec: FeatureSpec
    request_ids: list[str]
    number_of: dict[str, int]
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
    #: [M, T]: label, the earliest action's times (-1 on negatives), and whether an example row is due
    positive: Bools
    action_time_ms: Int64s
    action_ingest_ms: Int64s
    expected: Bools
    #: events left out of the join
    duplicate_features: int
    orphan_actions: int
    unusable: int

    def find(self, requests: Int64s, impression_ids: Int64s) -> Int64s:
        """Rows of (request number, impression id) pairs, int64[n]; -1 where there is no such impression."""
        return _find_pairs(self.request, self.impression_ids, requests, impression_ids)


class PlainJoin:
    """Collects events in arrival order; :meth:`result` joins them."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.duplicate_features = 0
        self.unusable = 0
        self._number_of: dict[str, int] = {}
        self._features: list[FeatureEvent] = []
        self._feature_ingest: list[int] = []
        self._wanted = {task.action for task in spec.tasks}
        self._actions: dict[str, list[tuple[str, int, int, int]]] = {name: [] for name in self._wanted}
        self.actions = 0

    def add_feature(self, event: FeatureEvent, ingest_ms: int = NO_TIME_MS) -> None:
        """One feature event; the first with its request id counts, later ones are counted as duplicates."""
        try:
            self.spec.check_feature(event)
        except RecordError:
            self.unusable += 1
            return
        if event.request_id in self._number_of:
            self.duplicate_features += 1
            return
        self._number_of[event.request_id] = len(self._features)
        self._features.append(event)
        self._feature_ingest.append(ingest_ms)

    def add_action(self, event: ActionEvent, ingest_ms: int = NO_TIME_MS) -> None:
        """One action event; actions that no task asks for are passed over."""
        try:
            self.spec.check_action(event)
        except RecordError:
            self.unusable += 1
            return
        self.actions += 1
        if event.action in self._wanted:
            self._actions[event.action].append((event.request_id, event.impression_id, event.event_time_ms, ingest_ms))

    def result(self) -> Joined:
        """The join of all events so far."""
        spec, features = self.spec, self._features
        tasks = len(spec.tasks)
        counts = np.array([len(event.impression_ids) for event in features], np.int64)
        start = _bounds(counts)
        total = int(start[-1])
        request = np.repeat(np.arange(len(features)), counts)
        impression_ids = _concat([event.impression_ids for event in features], np.int64)
        context_lengths = _concat(
            [_ones(event.context_lengths, len(spec.context)) for event in features], np.uint16
        ).reshape(len(features), len(spec.context))
        item_lengths = _concat(
            [_ones(event.item_lengths, len(event.impression_ids) * len(spec.item)) for event in features], np.uint16
        ).reshape(total, len(spec.item))
        unserved = np.full(tasks * (int(counts.max()) if len(counts) else 0), np.nan, np.float32)
        logits = [
            unserved[: tasks * len(event.impression_ids)] if event.served_logits is None else event.served_logits
            for event in features
        ]
        feature_time = np.array([event.event_time_ms for event in features], np.int64)

        positive = np.zeros((total, tasks), np.bool_)
        action_time = np.full((total, tasks), NO_TIME_MS, np.int64)
        action_ingest = np.full((total, tasks), NO_TIME_MS, np.int64)
        expected = np.zeros((total, tasks), np.bool_)
        orphans = 0
        matches = {name: self._match(name, request, impression_ids) for name in self._wanted}
        for column, task in enumerate(spec.tasks):
            rows, times, ingests = matches[task.action]
            orphans += int((rows < 0).sum()) if task.action not in {t.action for t in spec.tasks[:column]} else 0
            known = rows >= 0
            rows, times, ingests = rows[known], times[known], ingests[known]
            inside = times < feature_time[request[rows]] + task.window_ms
            rows, times, ingests = rows[inside], times[inside], ingests[inside]
            # Written latest first, so that the earliest (and of equal times the first to arrive) remains.
            order = np.argsort(times, kind="stable")[::-1]
            # A fancy assignment with repeated indices keeps the last value.
            positive[rows[order], column] = True
            action_time[rows[order], column] = times[order]
            action_ingest[rows[order], column] = ingests[order]
            expected[:, column] = positive[:, column] | self._sampled(column, request, impression_ids)
        return Joined(
            spec=spec,
            request_ids=list(self._number_of),
            number_of=self._number_of,
            feature_time_ms=feature_time,
            feature_ingest_ms=np.array(self._feature_ingest, np.int64),
            start=start,
            request=request,
            impression_ids=impression_ids,
            context_fids=_concat([event.context_fids for event in features], np.int64),
            context_start=_bounds(context_lengths.sum(axis=1, dtype=np.int64)),
            context_lengths=context_lengths,
            item_fids=_concat([event.item_fids for event in features], np.int64),
            item_start=_bounds(item_lengths.sum(axis=1, dtype=np.int64)),
            item_lengths=item_lengths,
            dense=_concat([event.dense for event in features], np.float32).reshape(total, len(spec.dense)),
            served_logits=_concat(logits, np.float32).reshape(total, tasks),
            positive=positive,
            action_time_ms=action_time,
            action_ingest_ms=action_ingest,
            expected=expected,
            duplicate_features=self.duplicate_features,
            orphan_actions=orphans,
            unusable=self.unusable,
        )

    def _match(self, action: str, request: Int64s, impression_ids: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Impression row (-1: none), time and ingest time of each action of one name, in arrival order."""
        found = self._actions[action]
        number = np.array([self._number_of.get(entry[0], -1) for entry in found], np.int64)
        rest = np.array([entry[1:] for entry in found], np.int64).reshape(len(found), 3)
        return _find_pairs(request, impression_ids, number, rest[:, 0]), rest[:, 1], rest[:, 2]

    def _sampled(self, column: int, request: Int64s, impression_ids: Int64s) -> Bools:
        """Whether each impression is kept as a negative of the task, bool[M]."""
        task, seed = self.spec.tasks[column], self.spec.sampling_seed
        digests = b"".join(
            blake2b(f"{seed}|{task.name}|{request_id}".encode(), digest_size=8).digest()
            for request_id in self._number_of
        )
        x = np.frombuffer(digests, "<u8")[request] ^ impression_ids.astype(np.uint64)
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        kept: Bools = (x >> np.uint64(11)) * 2.0**-53 < task.negative_rate
        return kept


def _find_pairs(in_a: Int64s, in_b: Int64s, a: Int64s, b: Int64s) -> Int64s:
    """Position of each pair (a, b) among the distinct pairs (in_a, in_b), -1 where absent."""
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


def _bounds(counts: Int64s) -> Int64s:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def _concat(parts: Sequence[AnyArray], dtype: type) -> AnyArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _ones(lengths: UInt16s | None, count: int) -> UInt16s:
    return np.ones(count, np.uint16) if lengths is None else lengths

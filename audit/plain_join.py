"""The join of two recorded topics, plainly: what a joiner should have made of them (``docs/join.md``).

Written from the definition of the join alone, with all events at hand at once: no state, no watermark, no
shared code with the streaming joiner. It is what the audit compares with, and the labels of the report's
curves. Source of the hash: SplitMix64 (Steele, Lea, Flood 2014) over BLAKE2b.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from math import exp
from typing import NamedTuple

import numpy as np

from rillet.audit.expected import ExpectedExamples, find_pairs
from rillet.audit.rules import turning_actions
from rillet.schemas import (
    MAX_AHEAD_MS,
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    SpecRegistry,
    Task,
    decode,
)
from rillet.schemas.arrays import AnyArray, Bools, Float32s, Int64s, UInt16s
from rillet.schemas.negative_rates import RateByScore


class _Acted(NamedTuple):
    """An action that a task asks for."""

    request_id: str
    #: impression id, event time, ingest time, newest timestamp before it
    numbers: tuple[int, int, int, int]
    #: its number among all, what tells it from others on its pair, its value
    told: tuple[int, Hashable, float | None]


class PlainJoin:
    """Collects events; :meth:`result` joins them. The records of a partition have to come in order of their offsets.

    :param spec: under which all requests are joined.
    :param also_accepts: specs whose feature events are taken too, and converted.
    :param max_ahead_ms: the joiner's setting of that name.
    :param lateness_ms: the setting of that name in ``[flink]``; 0 is safe for any, and lets more rows pass as late.
    :param idle_delay_ms: None where no partition was idle for so long that Flink went on without it; otherwise the longest
        that a record took from its ingest time until it lay on its topic, a producer's delivery timeout at most. An idle
        partition does not hold the watermark back until its next record is there, and the watermark is never past the
        wall clock: so an action can have been late because of any record of either topic, or of silence, but not of what
        came more than so long after its own ingest.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        also_accepts: Iterable[FeatureSpec] = (),
        max_ahead_ms: int = MAX_AHEAD_MS,
        lateness_ms: int = 0,
        idle_delay_ms: int | None = None,
    ) -> None:
        self.spec = spec
        self._specs = SpecRegistry(spec, also_accepts)
        #: records that are dead letters
        self.unusable = 0
        #: usable action events
        self.actions = 0
        self._max_ahead_ms = max_ahead_ms
        self._lateness_ms = lateness_ms
        self._idle_delay_ms = idle_delay_ms
        #: newest time to which a record of each (topic, partition) can have moved the watermark so far
        self._newest_ms: dict[tuple[str, int], int] = {}
        self._counts = dict.fromkeys(
            (
                *("duplicate_features", "duplicate_actions", "early_actions", "outside_window"),
                *(
                    "unknown_impressions",
                    "unknown_actions",
                    "orphan_actions",
                    "incomplete_actions",
                    "ungathered_actions",
                ),
            ),
            0,
        )
        self._number_of: dict[str, int] = {}
        self._features: list[FeatureEvent] = []
        self._feature_ingest: list[int] = []
        self._partitions: list[tuple[str, int]] = []
        self._arrival: list[int] = []
        #: records so far
        self._read = 0
        self._wanted = {name for task in spec.tasks for name in task.actions}
        self._asked_for = spec.actions
        self._actions: dict[str, list[_Acted]] = {name: [] for name in self._wanted}

    def add_record(
        self,
        value: bytes | None,
        key: bytes | None,
        ingest_ms: int = NO_TIME_MS,
        timestamp_ms: int = NO_TIME_MS,
        *,
        topic: str = "",
        partition: int = 0,
    ) -> bool:
        """One record of either topic as it lies there; whether it is usable. One that is not is counted.

        :param timestamp_ms: of the record in Kafka, which is what watermarks are made of.
        """
        self._read += 1
        # Only records read before it can have moved the watermark past an action, and a partition holds the
        # watermark back until its next record is read. An unusable record moves it too.
        newest_before_ms = self._newest_ms.get((topic, partition), NO_TIME_MS)
        # And none past the time at which it was sent.
        moves_to_ms = timestamp_ms if ingest_ms < 0 else min(timestamp_ms, ingest_ms)
        self._newest_ms[topic, partition] = max(newest_before_ms, moves_to_ms)
        try:
            event = decode(value or b"")
            if not isinstance(event, FeatureEvent | ActionEvent):
                raise RecordError("neither feature nor action event")
            event = self._specs.event(event)
            self._check(event, key, ingest_ms, timestamp_ms)
        except RecordError:
            self.unusable += 1
            return False
        if isinstance(event, FeatureEvent):
            self.add_feature(event, ingest_ms, (topic, partition))
        else:
            self.add_action(event, ingest_ms, newest_before_ms)
        return True

    def add_feature(
        self, event: FeatureEvent, ingest_ms: int = NO_TIME_MS, partition: tuple[str, int] = ("", 0)
    ) -> None:
        """One feature event that is usable; the first of its request counts. Impressions that were not exposed do not."""
        if event.request_id in self._number_of:
            self._counts["duplicate_features"] += 1
            return
        self._number_of[event.request_id] = len(self._features)
        self._features.append(event.shown())
        self._feature_ingest.append(ingest_ms)
        self._partitions.append(partition)
        self._arrival.append(self._read)

    def add_action(self, event: ActionEvent, ingest_ms: int = NO_TIME_MS, newest_before_ms: int = NO_TIME_MS) -> None:
        """One action event that is usable.

        :param newest_before_ms: newest timestamp of a record before it in its partition; -1: none, so it was not late.
        """
        self.actions += 1
        if event.action in self._wanted:
            identity = event.action_id or (event.action, event.event_time_ms, event.value)
            self._actions[event.action].append(
                _Acted(
                    event.request_id,
                    (event.impression_id, event.event_time_ms, ingest_ms, newest_before_ms),
                    (self.actions, identity, event.value),
                )
            )
        elif event.action not in self._asked_for:
            self._counts["unknown_actions"] += 1

    def result(self) -> ExpectedExamples:
        """The join of all events so far."""
        spec, features = self.spec, self._features
        tasks = len(spec.tasks)
        sizes = np.array([len(event.impression_ids) for event in features], np.int64)
        start = _bounds(sizes)
        total = int(start[-1])
        request = np.repeat(np.arange(len(features)), sizes)
        impression_ids = _concat([event.impression_ids for event in features], np.int64)
        context_lengths = _concat(
            [_ones(event.context_lengths, len(spec.context)) for event in features], np.uint16
        ).reshape(len(features), len(spec.context))
        item_lengths = _concat(
            [_ones(event.item_lengths, len(event.impression_ids) * len(spec.item)) for event in features], np.uint16
        ).reshape(total, len(spec.item))
        unserved = np.full(tasks * (int(sizes.max()) if len(sizes) else 0), np.nan, np.float32)
        logits = [
            unserved[: tasks * len(event.impression_ids)] if event.served_logits is None else event.served_logits
            for event in features
        ]
        feature_time = np.array([event.event_time_ms for event in features], np.int64)

        positive = np.zeros((total, tasks), np.bool_)
        action_time = np.full((total, tasks), NO_TIME_MS, np.int64)
        action_ingest = np.full((total, tasks), NO_TIME_MS, np.int64)
        may_be_late = np.zeros((total, tasks), np.bool_)
        served_logits = _concat(logits, np.float32).reshape(total, tasks)
        item_start = _bounds(item_lengths.sum(axis=1, dtype=np.int64))
        context_start = _bounds(context_lengths.sum(axis=1, dtype=np.int64))
        context_fids = _concat([event.context_fids for event in features], np.int64)
        item_fids = _concat([event.item_fids for event in features], np.int64)
        rates = np.empty((total, tasks), np.float32)
        sampled = np.zeros((total, tasks), np.bool_)
        newest_ms = max(self._newest_ms.values(), default=NO_TIME_MS)
        counts = dict(self._counts)
        for name in self._wanted:
            numbers, rows, _, _ = self._match([name], request, impression_ids)
            counts["orphan_actions"] += int((numbers < 0).sum())
            counts["unknown_impressions"] += int(((numbers >= 0) & (rows < 0)).sum())
        for column, task in enumerate(spec.tasks):
            _, rows, times, acted = self._match(task.actions, request, impression_ids)
            known = np.flatnonzero(rows >= 0)
            rows, times = rows[known], times[known]
            after = times[:, 0] - feature_time[request[rows]]
            early, outside = after < -task.early_ms, after >= task.window_ms
            inside = ~early & ~outside
            rows, times = rows[inside], times[inside]
            if task.at_least is None:
                # Of several actions on a pair the first to arrive counts, whatever their event times.
                labelled, first = np.unique(rows, return_index=True)
                counts["duplicate_actions"] += len(rows) - len(labelled)
            else:
                told = [acted[at].told[1:] for at in known[inside].tolist()]
                first, fates = turning_actions(task.at_least, rows, told)
                labelled = rows[first]
                for fate, count in fates.items():
                    counts[fate] += count
            positive[labelled, column] = True
            action_time[labelled, column] = times[first, 0]
            action_ingest[labelled, column] = times[first, 1]
            # A negative goes out for a watermark past its time, and that takes a record so new, or silence until then.
            wait_ms = task.window_ms if task.negative_after_ms is None else task.negative_after_ms
            ends = feature_time[request[labelled]] + wait_ms
            before_ms = times[first, 2]
            if self._idle_delay_ms is not None:
                ingest_ms = times[first, 1]
                # Without an ingest time, when it came is not known.
                idle_ms = np.where(ingest_ms >= 0, ingest_ms + self._idle_delay_ms, newest_ms)
                before_ms = np.maximum(before_ms, idle_ms)
            may_be_late[labelled, column] = before_ms - self._lateness_ms >= ends
            rates[:, column] = task.negative_rate
            if task.rate_by_score is not None:
                rates[:, column] = _rates_by_score(task, task.rate_by_score, served_logits[:, column])
            elif task.rate_by_slot is not None:
                at = [slot.name for slot in spec.slots].index(task.rate_by_slot.slot)
                # The slot has one value: where those before it end.
                if at < len(spec.context):
                    before = context_lengths[:, :at].sum(axis=1, dtype=np.int64)
                    fids = context_fids[context_start[:-1] + before][request]
                else:
                    before = item_lengths[:, : at - len(spec.context)].sum(axis=1, dtype=np.int64)
                    fids = item_fids[item_start[:-1] + before]
                for one in task.rate_by_slot.classes:
                    rates[np.isin(fids, spec.slots[at].fids(one.values)), column] = one.rate
            sampled[:, column] = self._sampled(column, request, impression_ids, rates[:, column])
            counts["early_actions"] += int(early.sum())
            counts["outside_window"] += int(outside.sum())
        return ExpectedExamples(
            spec=spec,
            request_ids=list(self._number_of),
            number_of=self._number_of,
            partitions=self._partitions,
            arrival=np.array(self._arrival, np.int64),
            feature_time_ms=feature_time,
            feature_ingest_ms=np.array(self._feature_ingest, np.int64),
            start=start,
            request=request,
            impression_ids=impression_ids,
            context_fids=context_fids,
            context_start=context_start,
            context_lengths=context_lengths,
            item_fids=item_fids,
            item_start=item_start,
            item_lengths=item_lengths,
            dense=_concat([event.dense for event in features], np.float32).reshape(total, len(spec.dense)),
            served_logits=served_logits,
            positive=positive,
            action_time_ms=action_time,
            action_ingest_ms=action_ingest,
            rates=rates,
            sampled=sampled,
            may_be_late=may_be_late,
            counts=counts,
            unusable=self.unusable,
        )

    def _check(self, event: FeatureEvent | ActionEvent, key: bytes | None, ingest_ms: int, timestamp_ms: int) -> None:
        """
        :raises RecordError: the event is unusable.
        """
        if key != event.request_id.encode() or not NO_TIME_MS <= ingest_ms < MAX_TIME_MS:
            raise RecordError("key or ingest time")
        if isinstance(event, FeatureEvent):
            self.spec.check_feature(event)
        else:
            self.spec.check_action(event)
        entered_ms = timestamp_ms if ingest_ms == NO_TIME_MS else ingest_ms
        if 0 <= entered_ms < event.event_time_ms - self._max_ahead_ms:
            raise RecordError("ahead of its time")

    def _match(
        self, names: Sequence[str], request: Int64s, impression_ids: Int64s
    ) -> tuple[Int64s, Int64s, Int64s, list[_Acted]]:
        """Request number and impression row (-1: none) of the n actions of some names, int64[n], as they came.

        With their event time, ingest time and the newest timestamp before them, int64[n, 3], and all that is known of them.
        """
        found = self._actions[names[0]]
        if len(names) > 1:
            found = sorted((one for name in names for one in self._actions[name]), key=lambda one: one.told[0])
        numbers = np.array([self._number_of.get(one.request_id, -1) for one in found], np.int64)
        rest = np.array([one.numbers for one in found], np.int64).reshape(len(found), 4)
        return numbers, find_pairs(request, impression_ids, numbers, rest[:, 0]), rest[:, 1:], found

    def _sampled(self, column: int, request: Int64s, impression_ids: Int64s, rates: Float32s) -> Bools:
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
        kept: Bools = (x >> np.uint64(11)) * 2.0**-53 < rates
        return kept


def _rates_by_score(task: Task, by_score: RateByScore, logits: Float32s) -> Float32s:
    """float32[M]; see rule 9."""
    found = np.full(len(logits), task.negative_rate, np.float32)
    steps = np.round(np.minimum(np.maximum(logits, -16), 16) * 16)
    for step in np.unique(steps[~np.isnan(steps)]).tolist():
        p = 1 / (1 + exp(-step / 16))
        found[steps == step] = min(max(task.negative_rate / by_score.mean_score * p, by_score.floor), 1)
    return found


def _bounds(counts: Int64s) -> Int64s:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def _concat(parts: Sequence[AnyArray], dtype: type) -> AnyArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _ones(lengths: UInt16s | None, count: int) -> UInt16s:
    return np.ones(count, np.uint16) if lengths is None else lengths

"""Deterministic negative sampling: whether a negative is kept follows from its own request, the spec and nothing else.

A replay therefore keeps the same sample, and two joiners agree without talking. Text is hashed once per
request (BLAKE2b), impressions are mixed in with the finaliser of SplitMix64 (Steele, Lea, Flood 2014). The rules are rule 9
of ``docs/join.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import exp
from typing import Protocol

import numpy as np

from rillet.schemas import FeatureEvent, FeatureSpec, Task
from rillet.schemas.arrays import Bools, Float32s, Int64s, UInt64s
from rillet.schemas.negative_rates import RateByScore, RateBySlot

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
#: rates by score are of logits in steps of a sixteenth, up to 16: rounding is exact, an exponential of any logit is not the
#: same on every machine
_STEPS, _LIMIT = 16, 16
_FURTHEST = _STEPS * _LIMIT


def request_hash(seed: int, task: str, request_id: str) -> int:
    """64-bit hash of a request for one task's sample."""
    return int.from_bytes(blake2b(f"{seed}|{task}|{request_id}".encode(), digest_size=8).digest(), "little")


def choose(request_hashes: UInt64s, impression_ids: Int64s, rates: Float32s | np.float32) -> Bools:
    """Whether the sample keeps each impression, bool of the shape that the three have together.

    :param request_hashes: of :func:`request_hash`, by impression, or a column with one per task.
    :param impression_ids: int64[n].
    :param rates: of each, or of all, in (0, 1].
    """
    x = request_hashes ^ impression_ids.view(np.uint64)
    x += _GAMMA
    x ^= x >> _30
    x *= _MIX1
    x ^= x >> _27
    x *= _MIX2
    x ^= x >> _31
    x >>= _11
    # Both conversions are exact.
    kept: Bools = x * 2.0**-53 < rates
    return kept


class _Rates(Protocol):
    """Rates of one task's negatives."""

    #: of all of them, where they have one rate
    of_all: np.float32 | None

    def of(self, event: FeatureEvent) -> Float32s:
        """float32[N], of each impression of a request."""


class _Uniform:
    def __init__(self, rate: float) -> None:
        self.of_all: np.float32 | None = np.float32(rate)

    def of(self, event: FeatureEvent) -> Float32s:
        return np.full(len(event.impression_ids), self.of_all, np.float32)


class _BySlot:
    of_all: np.float32 | None = None

    def __init__(self, spec: FeatureSpec, task: Task, by_slot: RateBySlot) -> None:
        at = [slot.name for slot in spec.slots].index(by_slot.slot)
        self._in_context, self._slots = at < len(spec.context), len(spec.item)
        self._column = at if self._in_context else at - len(spec.context)
        known = {fid: one.rate for one in by_slot.classes for fid in spec.slots[at].fids(one.values).tolist()}
        #: ascending
        self._fids = np.array(sorted(known), np.int64)
        self._rates = np.array([known[fid] for fid in sorted(known)], np.float32)
        self._otherwise = np.float32(task.negative_rate)

    def of(self, event: FeatureEvent) -> Float32s:
        n = len(event.impression_ids)
        fids = self._of_context(event) if self._in_context else self._of_items(event, n)
        at = np.minimum(self._fids.searchsorted(fids), len(self._fids) - 1)
        rates = np.where(self._fids[at] == fids, self._rates[at], self._otherwise)
        return np.broadcast_to(rates, n)

    def _of_context(self, event: FeatureEvent) -> Int64s:
        lengths = event.context_lengths
        at = self._column if lengths is None else int(lengths[: self._column].sum(dtype=np.int64))
        return event.context_fids[at : at + 1]

    def _of_items(self, event: FeatureEvent, n: int) -> Int64s:
        if event.item_lengths is None:
            fids: Int64s = event.item_fids.reshape(n, self._slots)[:, self._column]
            return fids
        ends = np.cumsum(event.item_lengths, dtype=np.int64).reshape(n, self._slots)
        # The slot has one value.
        values: Int64s = event.item_fids[ends[:, self._column] - 1]
        return values


class _ByScore:
    of_all: np.float32 | None = None

    def __init__(self, spec: FeatureSpec, number: int, by_score: RateByScore) -> None:
        self._task, self._tasks = number, len(spec.tasks)
        rate = spec.tasks[number].negative_rate
        self._otherwise = np.float32(rate)
        self._rates = np.array(score_rates(rate, by_score), np.float32)

    def of(self, event: FeatureEvent) -> Float32s:
        if event.served_logits is None:
            return np.full(len(event.impression_ids), self._otherwise, np.float32)
        logits = event.served_logits[self._task :: self._tasks]
        unknown = np.isnan(logits)
        steps = np.rint(np.clip(np.where(unknown, 0, logits), -_LIMIT, _LIMIT) * _STEPS).astype(np.int64)
        return np.where(unknown, self._otherwise, self._rates[steps + _FURTHEST])


def score_rates(rate: float, by_score: RateByScore) -> list[float]:
    """The rate of a negative for each logit from -16 to 16 in steps of a sixteenth.

    :param rate: ``negative_rate`` of the task.
    """
    scale = rate / by_score.mean_score
    p = [1 / (1 + exp(-step / _STEPS)) for step in range(-_FURTHEST, _FURTHEST + 1)]
    return [min(max(scale * one, by_score.floor), 1.0) for one in p]


class Sampling:
    """The rates of a spec's negatives, and which of them the sample keeps."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._seed, self._names = spec.sampling_seed, [task.name for task in spec.tasks]
        self._rates = [_rates_of(spec, number) for number in range(len(spec.tasks))]
        #: float32[T], of the tasks with one rate for all; NaN of the others
        self._of_all = np.array([np.nan if r.of_all is None else r.of_all for r in self._rates], np.float32)
        #: whether all tasks have
        self._uniform = not np.isnan(self._of_all).any()
        self._all_kept = bool((self._of_all >= 1).all())

    def rates(self, events: Sequence[FeatureEvent], request: Int64s, index: Int64s, task: Int64s) -> Float32s:
        """Rates of pairs, which go with their rows, float32[n].

        :param request: int[n], place of each pair's request in ``events``.
        :param index: int[n], number of its impression in the request.
        :param task: int[n].
        """
        rates = self._of_all[task]
        if self._uniform:
            return rates
        open_ = np.flatnonzero(np.isnan(rates))
        for number in np.unique(task[open_]).tolist():
            rows = open_[task[open_] == number]
            of = self._rates[number].of
            requests, at = np.unique(request[rows], return_inverse=True)
            every = [of(events[r]) for r in requests.tolist()]
            starts = np.cumsum([0] + [len(one) for one in every[:-1]])
            rates[rows] = np.concatenate(every)[starts[at] + index[rows]]
        return rates

    def of_request(self, event: FeatureEvent, tasks: Sequence[int]) -> Bools:
        """Which impressions of a request the samples of k tasks keep as negatives, bool[k, N]."""
        if self._all_kept:
            return np.ones((len(tasks), len(event.impression_ids)), np.bool_)
        hashes = [request_hash(self._seed, self._names[task], event.request_id) for task in tasks]
        rates = self._of_all[list(tasks), None]
        if not self._uniform:
            rates = np.array([self._rates[task].of(event) for task in tasks])
        return choose(np.array(hashes, np.uint64)[:, None], event.impression_ids, rates)

    def of_requests(self, events: Sequence[FeatureEvent], indices: Sequence[Int64s], task: int) -> list[Int64s]:
        """Those of some impressions of several requests that the sample of a task keeps.

        :param indices: numbers of the impressions, int64[k] of each request.
        """
        rule = self._rates[task]
        if rule.of_all == 1:
            return list(indices)
        name, counts = self._names[task], [len(one) for one in indices]
        hashes = np.fromiter((request_hash(self._seed, name, e.request_id) for e in events), np.uint64, len(events))
        ids = np.concatenate([e.impression_ids[i] for e, i in zip(events, indices, strict=True)])
        rates: Float32s | np.float32 | None = rule.of_all
        if rates is None:
            rates = np.concatenate([rule.of(e)[i] for e, i in zip(events, indices, strict=True)])
        parts = np.split(choose(np.repeat(hashes, counts), ids, rates), np.cumsum(counts)[:-1])
        return [one[part] for one, part in zip(indices, parts, strict=True)]


def _rates_of(spec: FeatureSpec, number: int) -> _Rates:
    task = spec.tasks[number]
    if task.rate_by_slot is not None:
        return _BySlot(spec, task, task.rate_by_slot)
    if task.rate_by_score is not None:
        return _ByScore(spec, number, task.rate_by_score)
    return _Uniform(task.negative_rate)

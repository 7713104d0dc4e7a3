"""Deterministic negative sampling: whether a negative is kept follows from its own request, the spec and nothing else.

A replay therefore keeps the same sample, and two joiners agree without talking. Text is hashed once per
request (BLAKE2b), impressions are mixed in with the finaliser of SplitMix64 (Steele, Lea, Flood 2014). The rules are rule 9
of ``docs/join.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import exp
from typing import NamedTuple, Protocol

import numpy as np

from rillet.schemas import FeatureEvent, FeatureSpec, Task
from rillet.schemas.arrays import Bools, Float32s, Int32s, Int64s, UInt16s, UInt64s
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


class Columns(NamedTuple):
    """n impressions of one or several requests, in columns as records hold them."""

    #: int[n], number of the request of each; 0 where there is one
    request: Int32s | Int64s | int
    #: request after request
    context_fids: Int64s
    context_lengths: UInt16s | None
    #: impression after impression
    item_fids: Int64s
    item_lengths: UInt16s | None
    #: float32[n x T]
    served_logits: Float32s | None

    @classmethod
    def of(cls, event: FeatureEvent) -> Columns:
        """Those of a request."""
        items = event.item_fids, event.item_lengths
        return cls(0, event.context_fids, event.context_lengths, *items, event.served_logits)


class _Rule(Protocol):
    """What the rates of one task's negatives are."""

    #: the rate of all of them, where they have one
    of_all: np.float32 | None

    def of(self, columns: Columns) -> Float32s | np.float32:
        """float32[n], or one for all n."""


class _Uniform:
    def __init__(self, rate: float) -> None:
        self.of_all: np.float32 | None = np.float32(rate)
        self._rate = np.float32(rate)

    def of(self, columns: Columns) -> Float32s | np.float32:
        return self._rate


class _BySlot:
    of_all: np.float32 | None = None

    def __init__(self, spec: FeatureSpec, task: Task, by_slot: RateBySlot) -> None:
        at, context = [slot.name for slot in spec.slots].index(by_slot.slot), len(spec.context)
        self._in_context = at < context
        self._column, self._slots = (at, context) if self._in_context else (at - context, len(spec.item))
        known = {fid: one.rate for one in by_slot.classes for fid in spec.slots[at].fids(one.values).tolist()}
        #: ascending
        self._fids = np.array(sorted(known), np.int64)
        self._rates = np.array([known[fid] for fid in sorted(known)], np.float32)
        self._otherwise = np.float32(task.negative_rate)

    def of(self, columns: Columns) -> Float32s | np.float32:
        if self._in_context:
            fids = self._values(columns.context_fids, columns.context_lengths)
        else:
            fids = self._values(columns.item_fids, columns.item_lengths)
        at = np.minimum(self._fids.searchsorted(fids), len(self._fids) - 1)
        rates: Float32s = np.where(self._fids[at] == fids, self._rates[at], self._otherwise)
        return rates[columns.request] if self._in_context else rates

    def _values(self, fids: Int64s, lengths: UInt16s | None) -> Int64s:
        """The slot's value in each row of a side, which is one."""
        if lengths is None:
            values: Int64s = fids.reshape(-1, self._slots)[:, self._column]
        else:
            values = fids[np.cumsum(lengths, dtype=np.int64)[self._column :: self._slots] - 1]
        return values


class _ByScore:
    of_all: np.float32 | None = None

    def __init__(self, spec: FeatureSpec, number: int, by_score: RateByScore) -> None:
        self._task, self._tasks = number, len(spec.tasks)
        rate = spec.tasks[number].negative_rate
        self._otherwise = np.float32(rate)
        #: by step, then that of no score
        self._rates = np.array([*score_rates(rate, by_score), rate], np.float32)

    def of(self, columns: Columns) -> Float32s | np.float32:
        if columns.served_logits is None:
            return self._otherwise
        logits = columns.served_logits[self._task :: self._tasks]
        # Through minimum and maximum, a logit of NaN, which is no score, stays NaN.
        steps = np.rint(np.minimum(np.maximum(logits, -_LIMIT), _LIMIT) * _STEPS) + _FURTHEST
        steps[np.isnan(steps)] = 2 * _FURTHEST + 1
        rates: Float32s = self._rates[steps.astype(np.int64)]
        return rates


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
        self._rules = [_rule_of(spec, number) for number in range(len(spec.tasks))]
        #: float32[T], of the tasks with one rate for all; NaN of the others
        self._of_all = np.array([np.nan if rule.of_all is None else rule.of_all for rule in self._rules], np.float32)
        #: the others
        self._ruled = [number for number, rule in enumerate(self._rules) if rule.of_all is None]
        self._all_kept = bool((self._of_all >= 1).all())

    def rate(self, task: int, columns: Columns) -> Float32s:
        """Rate of one pair, float32[1]."""
        rate: Float32s = self._of_all[task : task + 1]
        return self.rates(np.array([task]), columns) if task in self._ruled else rate

    def rates(self, task: Int64s, columns: Columns) -> Float32s:
        """Rates of n pairs, which go with their rows, float32[n].

        :param task: int64[n].
        :param columns: of their impressions.
        """
        rates: Float32s = self._of_all[task]
        for number in self._ruled:
            rates = np.where(task == number, self._rules[number].of(columns), rates)
        return rates

    def of_request(self, event: FeatureEvent, tasks: Sequence[int]) -> Bools:
        """Which impressions of a request the samples of k tasks keep as negatives, bool[k, N]."""
        shape = len(tasks), len(event.impression_ids)
        if self._all_kept:
            return np.ones(shape, np.bool_)
        hashes = [request_hash(self._seed, self._names[task], event.request_id) for task in tasks]
        rates = self._of_all[list(tasks), None]
        if self._ruled:
            columns, rates = Columns.of(event), np.empty(shape, np.float32)
            for row, task in enumerate(tasks):
                rates[row] = self._rules[task].of(columns)
        return choose(np.array(hashes, np.uint64)[:, None], event.impression_ids, rates)

    def keeps(self, event: FeatureEvent, task: int, index: int) -> bool:
        """Whether the sample of a task keeps impression ``index`` of a request as a negative."""
        return bool(self.of_request(event, [task])[0, index])

    def of_requests(self, events: Sequence[FeatureEvent], indices: Sequence[Int64s], task: int) -> list[Int64s]:
        """Those of some impressions of several requests that the sample of a task keeps.

        :param indices: numbers of the impressions, int64[k] of each request.
        """
        rule = self._rules[task]
        if rule.of_all == 1:
            return list(indices)
        name, counts = self._names[task], [len(one) for one in indices]
        hashes = np.fromiter((request_hash(self._seed, name, e.request_id) for e in events), np.uint64, len(events))
        pairs = list(zip(events, indices, strict=True))
        ids = np.concatenate([event.impression_ids[index] for event, index in pairs])
        rates: Float32s | np.float32 | None = rule.of_all
        if rates is None:
            every = [np.broadcast_to(rule.of(Columns.of(e)), len(e.impression_ids))[index] for e, index in pairs]
            rates = np.concatenate(every)
        parts = np.split(choose(np.repeat(hashes, counts), ids, rates), np.cumsum(counts)[:-1])
        return [one[part] for one, part in zip(indices, parts, strict=True)]


def _rule_of(spec: FeatureSpec, number: int) -> _Rule:
    task = spec.tasks[number]
    if task.rate_by_slot is not None:
        return _BySlot(spec, task, task.rate_by_slot)
    if task.rate_by_score is not None:
        return _ByScore(spec, number, task.rate_by_score)
    return _Uniform(task.negative_rate)

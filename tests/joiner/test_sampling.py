"""The sample of negatives is the documented hash, even, independent between tasks, and of the rates that rows carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rillet.joiner.sampling import Columns, Sampling, choose, request_hash
from rillet.schemas import FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass, fit_mean_score
from tests.joiner.support import SPEC, feature
from tests.simulation.joiner_oracle import kept, pair_rate

WATCH = 0
BY_USER = RateBySlot("user", (RateClass((1, 2, 3), 0.2), RateClass((4,), 1.0)))
BY_FILM = RateBySlot("film", (RateClass(tuple(range(1, 300)), 0.9), RateClass(tuple(range(300, 400)), 0.01)))
BY_SCORE = RateByScore(mean_score=0.4, floor=0.05)


def sample(seed: int, task: str, request_id: str, ids: np.ndarray, rate: float) -> np.ndarray:
    hashes = np.full(len(ids), request_hash(seed, task, request_id), np.uint64)
    return choose(hashes, ids, np.float32(rate))


def ruled(**rule: object) -> FeatureSpec:
    """SPEC with another rate for the negatives of its first task."""
    return replace(SPEC, tasks=(replace(SPEC.tasks[0], **rule), *SPEC.tasks[1:]))


def rates_of(spec: FeatureSpec, events: Sequence[FeatureEvent]) -> Float32s:
    """Of all pairs, request after request."""
    sampling = Sampling(spec)
    every = [sampling.rates(np.full(len(e.impression_ids), WATCH), Columns.of(e)) for e in events]
    return np.concatenate(every)


@pytest.mark.parametrize("seed", [0, 7, -3])
def test_it_is_the_documented_rule(seed: int) -> None:
    ids = np.array([0, 1, -1, 2**62, -(2**63), 2**63 - 1], np.int64)
    for number in range(50):
        # A rate may be so small, or so near to 1, that it differs from 0 or 1 in its last bits alone.
        for rate in (0.3, 1e-6, float(np.float32(1 - 2.0**-24)), 1.0):
            found = sample(seed, "watch", f"r{number}", ids, rate)
            stamped = float(np.float32(rate))
            assert found.tolist() == [kept(seed, "watch", f"r{number}", i, stamped) for i in ids.tolist()]


def test_a_rate_keeps_its_share_and_a_lower_rate_keeps_a_part_of_it() -> None:
    ids = np.arange(20_000)
    half, tenth = sample(1, "watch", "r", ids, 0.5), sample(1, "watch", "r", ids, 0.1)
    assert abs(half.mean() - 0.5) < 0.02
    assert abs(tenth.mean() - 0.1) < 0.01
    assert not (tenth & ~half).any()
    assert sample(1, "watch", "r", ids, 1.0).all()


@pytest.mark.parametrize("other", [(2, "watch", "r"), (1, "like", "r"), (1, "watch", "s")])
def test_seed_task_and_request_each_give_another_sample(other: tuple[int, str, str]) -> None:
    ids = np.arange(20_000)
    both = sample(1, "watch", "r", ids, 0.5) & sample(*other, ids, 0.5)
    assert abs(both.mean() - 0.25) < 0.02


RULES = [{}, {"rate_by_slot": BY_USER}, {"rate_by_slot": BY_FILM}, {"rate_by_score": BY_SCORE}]


@pytest.mark.parametrize("rule", RULES, ids=["uniform", "user", "film", "score"])
def test_every_pair_has_the_documented_rate_and_fate(rule: dict[str, object]) -> None:
    spec, rng = ruled(**rule), np.random.default_rng(1)
    events = [feature(number, 1_000, impressions=4) for number in range(60)]
    logits = [rng.choice([-20, -3, -0.03125, 0.03124, 2, 40, np.inf, np.nan], 8).astype(np.float32) for _ in events]
    events = [replace(e, served_logits=None if i % 5 == 4 else logits[i]) for i, e in enumerate(events)]
    due = [pair_rate(spec, spec.tasks[WATCH], event, index) for event in events for index in range(4)]
    assert rates_of(spec, events).tolist() == due
    assert len(set(due)) > 2 or not rule
    fates = [
        kept(7, "watch", event.request_id, impression, due[4 * number + index])
        for number, event in enumerate(events)
        for index, impression in enumerate(event.impression_ids.tolist())
    ]
    sampling = Sampling(spec)
    assert [fate for event in events for fate in sampling.of_request(event, [1, WATCH])[1].tolist()] == fates
    assert all(sampling.of_request(event, [1, WATCH])[0].all() for event in events)
    some = [np.array([3, 1])] * 60
    chosen = sampling.of_requests(events, some, WATCH)
    assert [one.tolist() for one in chosen] == [[i for i in (3, 1) if fates[4 * n + i]] for n in range(60)]


def test_slots_after_lists_of_any_length_are_found() -> None:
    moved = replace(SPEC, item=SPEC.item[::-1])
    lengths = np.array([2, 1, 0, 1, 3, 1], np.uint16)
    genres, films = SPEC.item[1].fids(["a", "b", "a", "b", "c"]), SPEC.item[0].fids([7, 300, 5])
    fids = np.array([*genres[:2], films[0], films[1], *genres[2:], films[2]])
    event = replace(feature(0, 1_000), item_fids=fids, item_lengths=lengths)
    spec = replace(moved, tasks=ruled(rate_by_slot=BY_FILM).tasks)
    assert rates_of(spec, [event]).tolist() == np.float32([0.9, 0.01, 0.9]).tolist()


@pytest.mark.parametrize("rule", RULES, ids=["uniform", "user", "film", "score"])
def test_what_is_kept_weighed_by_its_rate_stands_for_all(rule: dict[str, object]) -> None:
    spec, rng = ruled(negative_rate=0.2, **rule), np.random.default_rng(2)
    events = [feature(n, 1_000, impressions=40, rng=rng) for n in range(200)]
    rates = rates_of(spec, events).astype(np.float64)
    sampling = Sampling(spec)
    keeps = np.concatenate([sampling.of_request(event, [WATCH])[0] for event in events])
    error = np.sqrt((rates * (1 - rates)).sum())
    assert abs(keeps.sum() - rates.sum()) < 3 * error
    weights = np.where(keeps, 1 / rates, 0)
    assert abs(weights.sum() - len(rates)) < 3 * np.sqrt(((1 - rates) / rates).sum())


def test_a_fitted_mean_score_makes_the_mean_rate_that_of_the_task() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(-3, 2, 20_000).astype(np.float32)
    fitted = fit_mean_score(1 / (1 + np.exp(-logits)), rate=0.1, floor=0.02)
    spec = ruled(negative_rate=0.1, rate_by_score=RateByScore(fitted, 0.02))
    events = [replace(feature(n, 1_000, 100), served_logits=np.repeat(logits[100 * n :][:100], 2)) for n in range(200)]
    rates = rates_of(spec, events)
    assert rates.mean() == pytest.approx(0.1, rel=0.002)
    assert (rates.min(), rates.max() > 0.3) == (np.float32(0.02), True)
    with pytest.raises(ValueError, match=r"^0 scores, floor"):
        fit_mean_score([], rate=0.1, floor=0.2)

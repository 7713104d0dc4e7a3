"""The sample of negatives is the documented hash, even, and independent between tasks."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.joiner.sampling import highest_kept, keeps, request_hash
from tests.simulation.joiner_oracle import kept


def sample(seed: int, task: str, request_id: str, ids: np.ndarray, rate: float) -> np.ndarray:
    hashes = np.full(len(ids), request_hash(seed, task, request_id), np.uint64)
    kept = keeps(hashes, ids, highest_kept(rate))
    column = np.full((2, 1), highest_kept(rate))
    assert (keeps(hashes[:2, None], ids, column) == kept).all()
    return kept


@pytest.mark.parametrize("seed", [0, 7, -3])
def test_it_is_the_documented_rule(seed: int) -> None:
    ids = np.array([0, 1, -1, 2**62, -(2**63), 2**63 - 1], np.int64)
    for number in range(50):
        # A rate may be so small, or so near to 1, that it differs from 0 or 1 in its last bits alone.
        for rate in (0.3, 1e-300, 2.0**-53, 1 - 2.0**-53, 1.0):
            found = sample(seed, "watch", f"r{number}", ids, rate)
            assert found.tolist() == [kept(seed, "watch", f"r{number}", i, rate) for i in ids.tolist()]


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

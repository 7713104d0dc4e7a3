"""The queue counts rows, keeps order, respects its bounds and drops what is too late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import BackpressureError
from rillet.serving.errors import QueueFullError
from rillet.serving.row_queue import Job, RowQueue


def _job(name: str, rows: int, at: float = 0.0, deadline: float = float("inf")) -> Job[str, str]:
    return Job(name, rows, lambda outcome: None, at, deadline)


def _names(jobs: list[Job[str, str]]) -> list[str]:
    return [job.payload for job in jobs]


def test_a_batch_is_full_by_rows_not_by_requests() -> None:
    queue: RowQueue[str, str] = RowQueue(100, 10, 0.0)
    for name, rows in (("a", 4), ("b", 6), ("c", 1)):
        queue.offer(_job(name, rows))
    assert _names(queue.take(0.0)[0]) == ["a", "b"]
    assert queue.rows == 1
    assert _names(queue.take(0.0)[0]) == ["c"]


def test_a_request_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    queue: RowQueue[str, str] = RowQueue(100, 10, 0.0)
    queue.offer(_job("large", 50))
    queue.offer(_job("small", 1))
    assert _names(queue.take(0.0)[0]) == ["large"]
    assert _names(queue.take(0.0)[0]) == ["small"]


def test_a_full_queue_refuses_requests_of_any_size_and_is_as_before() -> None:
    queue: RowQueue[str, str] = RowQueue(10, 10, 0.0)
    queue.offer(_job("a", 8))
    queue.check_room()
    queue.offer(_job("b", 5))
    for refused in (queue.check_room, lambda: queue.offer(_job("c", 1))):
        with pytest.raises(QueueFullError, match="13 rows are waiting, of max_queue_rows = 10") as full:
            refused()
        assert isinstance(full.value, BackpressureError)
    assert queue.rows == 13
    assert _names(queue.take(0.0)[0]) == ["a"]
    queue.offer(_job("d", 1))
    assert _names(queue.take(0.0)[0]) == ["b", "d"]


def test_room_for_large_requests_is_not_taken_by_small_ones() -> None:
    """Twice as many rows as are computed: as large a share of large requests comes in as of small ones."""
    queue: RowQueue[str, str] = RowQueue(1000, 200, 0.0)
    rng = np.random.default_rng(0)
    came, let_in = {10: 0, 150: 0}, {10: 0, 150: 0}
    for _ in range(2000):
        wanted = 400
        while wanted > 0:
            rows = int(rng.choice([10, 150], p=[15 / 16, 1 / 16]))
            wanted -= rows
            came[rows] += 1
            try:
                queue.offer(_job("x", rows))
            except QueueFullError:
                continue
            let_in[rows] += 1
        queue.take(0.0)
    shares = {rows: let_in[rows] / came[rows] for rows in came}
    assert 0.3 < shares[10] < 0.6
    assert shares[150] == pytest.approx(shares[10], rel=0.1)


def test_expired_requests_are_taken_out_and_cost_no_batch_rows() -> None:
    queue: RowQueue[str, str] = RowQueue(100, 5, 0.0)
    queue.offer(_job("late", 5, deadline=1.0))
    queue.offer(_job("in time", 5, deadline=1.5))
    batch, expired = queue.take(1.0)
    assert (_names(batch), _names(expired)) == (["in time"], ["late"])
    assert queue.rows == 0


def test_expired_requests_hold_no_room_wherever_they_wait() -> None:
    queue: RowQueue[str, str] = RowQueue(20, 5, 0.0)
    for name, deadline in (("a", 9.0), ("b", 9.0), ("late", 1.0), ("c", 9.0)):
        queue.offer(_job(name, 5, deadline=deadline))
    batch, expired = queue.take(1.0)
    assert (_names(batch), _names(expired)) == (["a"], ["late"])
    assert queue.rows == 10
    queue.offer(_job("d", 10))
    assert [_names(queue.take(1.0)[0]) for _ in range(3)] == [["b"], ["c"], ["d"]]


def test_the_delay_counts_from_the_first_request_and_ends_when_the_batch_is_full() -> None:
    queue: RowQueue[str, str] = RowQueue(100, 10, 0.002)
    assert queue.wait_s(5.0) is None
    queue.offer(_job("a", 4, at=5.0))
    assert queue.wait_s(5.0005) == pytest.approx(0.0015)
    queue.offer(_job("b", 4, at=5.001))
    assert queue.wait_s(5.001) == pytest.approx(0.001)
    assert queue.wait_s(5.003) == 0.0
    queue.offer(_job("c", 2, at=5.001))
    assert queue.wait_s(5.001) == 0.0


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 12), st.just(0)), max_size=60),
    st.integers(1, 40),
    st.integers(1, 20),
)
def test_every_admitted_request_leaves_once_in_order(steps: list[int], max_rows: int, max_batch_rows: int) -> None:
    """0 is a take, another number an offer of so many rows."""
    queue: RowQueue[int, str] = RowQueue(max_rows, max_batch_rows, 0.0)
    admitted: list[int] = []
    served: list[int] = []
    waiting = 0
    for number, rows in enumerate([*steps, *([0] * len(steps))]):
        if rows:
            try:
                queue.offer(Job(number, rows, lambda outcome: None, 0.0))
            except QueueFullError:
                assert waiting >= max_rows
            else:
                assert waiting < max_rows
                admitted.append(number)
                waiting += rows
        else:
            batch, _ = queue.take(0.0)
            size = sum(job.rows for job in batch)
            assert size <= max_batch_rows or len(batch) == 1
            served += [job.payload for job in batch]
            waiting -= size
        assert queue.rows == waiting
    assert served == admitted
    assert len(queue) == 0


def test_a_batch_is_due_before_the_first_deadline_that_the_delay_would_miss() -> None:
    queue: RowQueue[str, str] = RowQueue(100, 10, 0.005)
    queue.offer(_job("patient", 6, at=5.0))
    queue.offer(_job("urgent", 6, at=5.001, deadline=5.003))
    queue.offer(_job("later", 1, at=5.001, deadline=6.0))
    due = queue.wait_s(5.001)
    assert due == 0.0  # 13 rows are more than a batch
    assert _names(queue.take(5.001)[0]) == ["patient"]
    wait = queue.wait_s(5.001)
    assert wait is not None
    assert 0 < wait < 0.002
    batch, expired = queue.take(5.001 + wait)
    assert (_names(batch), expired) == (["urgent", "later"], [])
    queue.offer(_job("next", 1, at=7.0))
    assert queue.wait_s(7.0) == pytest.approx(0.005)


def test_clearing_gives_everything_back_and_leaves_room() -> None:
    queue: RowQueue[str, str] = RowQueue(10, 10, 0.0)
    queue.offer(_job("a", 8))
    assert _names(queue.clear()) == ["a"]
    queue.offer(_job("b", 10))
    assert _names(queue.take(0.0)[0]) == ["b"]

"""Waits grow, are spread, heed the server, and never lead past the deadline."""

from __future__ import annotations

import math

import pytest

from rillet.serving.client import ClientError, RetryPolicy, ServerBusyError, Timeouts
from rillet.serving.client.attempts import Attempts, parse_retry_after


def _busy(retry_after_s: float | None = None) -> ServerBusyError:
    return ServerBusyError("busy", retryable=True, retry_after_s=retry_after_s)


def test_a_wait_is_anything_up_to_a_bound_that_doubles() -> None:
    policy = RetryPolicy(first_wait_s=0.1, longest_wait_s=1.0)
    assert [policy.wait_s(n, None, 1.0) for n in (1, 2, 3, 4, 5, 5000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert policy.wait_s(3, None, 0.0) == 0.0
    assert policy.wait_s(3, None, 0.5) == 0.2


def test_no_wait_is_shorter_than_the_server_asked_for() -> None:
    assert RetryPolicy().wait_s(1, retry_after_s=7.0, chance=0.0) == 7.0


def test_the_last_attempt_raises_what_it_met_with_the_number_of_attempts() -> None:
    attempts = Attempts(Timeouts(), RetryPolicy(attempts=3), now_s=0.0)
    for _ in range(2):
        attempts.begin(0.0)
        attempts.wait_s(_busy(), 0.0, 0.5)
    attempts.begin(0.0)
    with pytest.raises(ServerBusyError, match=r"busy \(after 3 attempts\)") as caught:
        attempts.wait_s(_busy(), 0.0, 0.5)
    assert caught.value.attempts == 3


def test_what_cannot_succeed_later_is_raised_at_once() -> None:
    attempts = Attempts(Timeouts(), RetryPolicy(), now_s=0.0)
    attempts.begin(0.0)
    with pytest.raises(ClientError, match=r"^wrong$"):
        attempts.wait_s(ClientError("wrong"), 0.0, 0.5)


def test_no_wait_begins_that_would_end_after_the_deadline() -> None:
    attempts = Attempts(Timeouts(total_s=10.0), RetryPolicy(), now_s=100.0)
    attempts.begin(100.0)
    assert attempts.wait_s(_busy(9.0), 100.5, 0.0) == 9.0
    with pytest.raises(ServerBusyError):
        attempts.wait_s(_busy(9.0), 101.5, 0.0)


def test_an_attempt_may_take_what_is_left_and_no_more_than_one_attempts_share() -> None:
    attempts = Attempts(Timeouts(attempt_s=4.0, total_s=10.0), RetryPolicy(), now_s=0.0)
    assert [attempts.begin(now) for now in (0.0, 5.0, 8.0)] == [(1.0, 4.0), (1.0, 4.0), (1.0, 2.0)]
    assert attempts.begin(11.0) == pytest.approx((0.001, 0.001))
    assert attempts.count == 4


@pytest.mark.parametrize("much", [math.inf, 1e300])
def test_limits_beyond_what_a_socket_takes_are_no_limit(much: float) -> None:
    timeouts = Timeouts(connect_s=much, attempt_s=much, total_s=much)
    attempts = Attempts(timeouts, RetryPolicy(attempts=2), now_s=0.0)
    assert attempts.begin(0.0) == (None, None)
    assert attempts.wait_s(_busy(1e6), 1e7, 0.0) == 1e6


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        (" 120 ", 120.0),
        ("Sat, 21 Nov 2026 18:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 17:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("99999999999999999999", 3_600.0),
        ("9" * 400, 3_600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600.0),
        ("Thu, 01 Jan 2026 00:00:00 +9999999999999999", None),
        ("Thu, 01 Jan 0001 00:00:00 +0100", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now_s=1_795_284_000.0) == seconds


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"first_wait_s": -1}, {"first_wait_s": 3}, {"longest_wait_s": 1e300}]
)
def test_a_policy_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RetryPolicy(**settings)  # type: ignore[arg-type]


def test_a_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="total_s"):
        Timeouts(total_s=0)

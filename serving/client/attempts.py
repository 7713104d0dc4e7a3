"""When a request is sent again, and how long each attempt may take. Time and chance are arguments; nothing sleeps.

Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), at
least as long as the server's ``Retry-After`` says, within one deadline for all attempts. Of a retry library only the
loop would be left: both how long to wait and when to stop depend on the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from rillet.schemas.ranges import check_above_zero
from rillet.serving.client.errors import ClientError

#: An attempt that begins at its deadline still gets this long, so that it fails by its timeout and not by a zero.
_SHORTEST_ATTEMPT_S = 0.001
#: Limits from here on (three years) are none: sockets do not take just any number of seconds.
_NO_LIMIT_S = 1e8
#: A server that asks for more is not believed; also far below what a sleep can take.
_LONGEST_WAIT_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may take, in seconds; ``inf`` is no limit.

    :param connect_s: until a connection is made.
    :param attempt_s: one attempt, from sending the request to having its answer.
    :param total_s: all attempts and the waits between them.
    """

    connect_s: float = 1.0
    attempt_s: float = 5.0
    total_s: float = 10.0

    def __post_init__(self) -> None:
        check_above_zero(self, "connect_s", "attempt_s", "total_s")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is sent, and the waits in between.

    :param attempts: at most so many, the first included; 1 never retries.
    :param first_wait_s: upper bound of the wait after the first attempt; it doubles after each further one.
    :param longest_wait_s: where the doubling ends; an hour at most.

    >>> policy = RetryPolicy(first_wait_s=0.1, longest_wait_s=0.5)
    >>> [policy.wait_s(attempt, None, chance=1.0) for attempt in (1, 2, 3, 4)]
    [0.1, 0.2, 0.4, 0.5]
    >>> policy.wait_s(1, retry_after_s=2.0, chance=0.5)
    2.05
    """

    attempts: int = 4
    first_wait_s: float = 0.05
    longest_wait_s: float = 2.0

    def __post_init__(self) -> None:
        check_above_zero(self, "attempts")
        if not 0 <= self.first_wait_s <= self.longest_wait_s <= _LONGEST_WAIT_S:
            raise ValueError(
                f"first_wait_s, longest_wait_s: {self.first_wait_s} and {self.longest_wait_s} are not in 0 <= first "
                f"<= longest <= {_LONGEST_WAIT_S:g}"
            )

    def wait_s(self, attempt: int, retry_after_s: float | None, chance: float) -> float:
        """Seconds to wait after a failed attempt.

        :param attempt: its number, from 1.
        :param retry_after_s: what the server asked for. The jitter comes on top, so that not all clients are back at once.
        :param chance: uniform in [0, 1).
        """
        # 2**60 is far above every bound; the limit keeps the power from overflowing after a thousand attempts.
        bound = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 60))
        return (retry_after_s or 0.0) + chance * bound


class Attempts:
    """The attempts of one call. Its user sends, sleeps and reads the clock."""

    def __init__(self, timeouts: Timeouts, policy: RetryPolicy, now_s: float) -> None:
        """:param now_s: monotonic clock, as in all calls."""
        self._timeouts, self._policy = timeouts, policy
        self._deadline_s = now_s + timeouts.total_s
        #: attempts begun so far
        self.count = 0

    def begin(self, now_s: float) -> tuple[float | None, float | None]:
        """Starts the next attempt; returns how many seconds connecting and the whole attempt may take, None for no limit."""
        self.count += 1
        attempt_s = max(_SHORTEST_ATTEMPT_S, min(self._timeouts.attempt_s, self._deadline_s - now_s))
        return _limit(min(self._timeouts.connect_s, attempt_s)), _limit(attempt_s)

    def wait_s(self, failure: ClientError, now_s: float, chance: float) -> float:
        """How many seconds to wait before the next attempt.

        :raises ClientError: ``failure`` itself, when there is to be no further attempt.
        """
        failure.attempts = self.count
        if not failure.retryable or self.count >= self._policy.attempts:
            raise failure
        wait_s = self._policy.wait_s(self.count, failure.retry_after_s, chance)
        if now_s + wait_s >= self._deadline_s:
            raise failure
        return wait_s


def _limit(seconds: float) -> float | None:
    return seconds if seconds < _NO_LIMIT_S else None


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait (RFC 9110, section 10.2.3), an hour at most; None without a
    readable one.

    :param now_s: wall clock in seconds since 1970: the header may hold a date.

    >>> parse_retry_after("3", now_s=0)
    3.0
    >>> parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now_s=50)
    10.0
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), _LONGEST_WAIT_S)
    try:
        moment = parsedate_to_datetime(text)
        at_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    # OverflowError: numbers in it that no date has.
    except (ValueError, OverflowError):
        # A header that says nothing: the policy's own wait applies.
        return None
    return min(max(0.0, at_s - now_s), _LONGEST_WAIT_S)

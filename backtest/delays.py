"""How much event time passes between the steps of the loop, and which publication a request is scored by."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ConfigError

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_INTERVAL = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class Delays:
    """Intervals in event time; 0 is the limit, in which a step is taken at once."""

    #: between two commits of the joiner
    commit_ms: int
    #: between two publications of rows, and of the network's weights (the next multiple of ``publish_ms`` is used)
    publish_ms: int
    dense_ms: int
    #: from a publication to its being served
    apply_ms: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name}: {getattr(self, field.name)} is negative")

    @classmethod
    def of(cls, config: RilletConfig, speed: float = 1.0) -> Delays:
        """Those that the services of a configuration have.

        :param speed: how many times faster than it was made the recording is driven: as much more event time passes
            within every interval.
        """
        return cls(
            commit_ms=round(config.flink.checkpoint_interval_ms * speed),
            publish_ms=round(config.publisher.sparse_interval_s * 1000 * speed),
            dense_ms=round(config.publisher.dense_interval_s * 1000 * speed),
        )

    def publications(self, start_ms: int, published_ms: int, now_ms: int) -> list[tuple[int, bool]]:
        """Publications since ``published_ms`` that a request at ``now_ms`` can notice: time, and whether of all weights.

        They are at multiples of the intervals after ``start_ms``. What happens at the moment of a publication comes
        before it: a request is scored by publications that were applied before its own millisecond. Of those between
        two requests only the last matters, and before it the last one that brought the network's weights.

        >>> Delays(commit_ms=0, publish_ms=10, dense_ms=25).publications(0, 0, 50)
        [(30, True), (40, False)]
        """
        newest_ms = now_ms - self.apply_ms - 1
        rows_ms = _last_multiple(start_ms, newest_ms, self.publish_ms)
        if rows_ms <= published_ms:
            return []
        # The weights go out with the first publication of rows after their interval is over.
        every_ms = -(-self.dense_ms // self.publish_ms) * self.publish_ms if self.publish_ms else self.dense_ms
        dense_ms = _last_multiple(start_ms, rows_ms, every_ms or self.publish_ms)
        if dense_ms == rows_ms:
            return [(rows_ms, True)]
        return [(dense_ms, True), (rows_ms, False)] if dense_ms > published_ms else [(rows_ms, False)]


def parse_interval(value: object) -> int:
    """Milliseconds of an interval with its unit: ms, s, m, h or d. 0 needs none.

    :raises ConfigError: anything else.

    >>> parse_interval("1.5m"), parse_interval("500ms"), parse_interval(0)
    (90000, 500, 0)
    """
    found = _INTERVAL.fullmatch(str(value).strip())
    if found:
        return round(float(found[1]) * _UNITS_MS[found[2]])
    if str(value).strip() == "0":
        return 0
    raise ConfigError(f"{value!r} is no interval: write a number and its unit, such as 500ms, 10s, 1m, 24h, or 0")


def show_interval(ms: int) -> str:
    """The shortest text that :func:`parse_interval` reads back.

    >>> show_interval(90_000), show_interval(3_600_000), show_interval(0)
    ('90s', '1h', '0')
    """
    if not ms:
        return "0"
    unit = next(unit for unit in reversed(_UNITS_MS) if ms % _UNITS_MS[unit] == 0)
    return f"{ms // _UNITS_MS[unit]}{unit}"


def _last_multiple(start_ms: int, now_ms: int, every_ms: int) -> int:
    """The newest of ``start_ms``, ``start_ms + every_ms`` ... that is not after ``now_ms``; ``now_ms`` itself for 0."""
    return start_ms + (now_ms - start_ms) // every_ms * every_ms if every_ms else now_ms

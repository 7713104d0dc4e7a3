"""Why label windows are held back, for the log: a topic is silent, or the broker does not tell whether it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

#: silence of one topic is told from so much on; a pause of users is shorter
_TOLD_MS = 60_000


class HoldAlarms:
    """Each is told once, until it is over."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        """:param now_s: monotonic clock, seconds."""
        self._now_s = now_s
        #: the topic that was told to hold windows back
        self._holding: str | None = None
        #: while all topics count as silent: by how much time was held then, by how much it was when last looked at, and since
        #: when that grows
        self._unknown: tuple[int, int, float | None] | None = None
        self._told_unknown = False

    def tell(self, held_ms: int, silent: Mapping[str, int]) -> None:
        """Judges the present figures.

        :param held_ms: by how much event time is behind the watermark.
        :param silent: how long each silent topic has been so, milliseconds.
        """
        self._tell_if_unknown(held_ms, silent)
        # By the clock too: after a start all that may be held is, since no watermark of before is known.
        long = [topic for topic, silent_ms in silent.items() if min(silent_ms, held_ms) >= _TOLD_MS]
        holding = long[0] if long and len(silent) == 1 else None
        if holding is not None and holding != self._holding:
            log.warning(
                "nothing has come to topic %s for %s s while the other one goes on: label windows wait for it, up to"
                " [flink] hold_ms; does what writes to it run?",
                holding,
                silent[holding] // 1_000,
            )
            self._holding = holding
        elif self._holding is not None and not held_ms:
            log.info("topic %s goes on, label windows close by the watermark again", self._holding)
            self._holding = None

    def _tell_if_unknown(self, held_ms: int, silent: Mapping[str, int]) -> None:
        """Where all topics are silent, nothing moves the watermark away from time; where something does, nobody knows of it."""
        if len(silent) < 2:
            self._unknown, self._told_unknown = None, False
            return
        first_ms, last_ms, since_s = self._unknown or (held_ms, held_ms, None)
        grows = held_ms > last_ms
        if grows and since_s is None:
            since_s = self._now_s()
        self._unknown = first_ms, held_ms, since_s
        # Once it may: the watermark goes on when a partition is left out.
        lasting = since_s is not None and self._now_s() - since_s >= _TOLD_MS / 1_000
        if grows and lasting and held_ms - first_ms >= _TOLD_MS and not self._told_unknown:
            self._told_unknown = True
            log.warning(
                "records come, and the broker does not tell how far topics %s are read: label windows wait, up to [flink] hold_ms;"
                " the log of Flink says why (`whether the topics are silent is not known`)",
                " and ".join(sorted(silent)),
            )

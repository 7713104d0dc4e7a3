"""Since when nothing has come to topics that their readers have not read, asked of the broker on a thread of its own.

A reader that gets nothing does not know whether there is nothing, whether the broker is away, or whether others still
have to read what there is. Only where all is read may time go on without records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.lag import Ends, GroupLag
from rillet.schemas import RilletError

log = logging.getLogger(__name__)

_CHECKS_PER_IDLE_TIME = 4
_TIMEOUT_S = 10.0


class TopicSilence:
    """Watches topics, each read by one group; a stage without records, for one caller."""

    def __init__(self, kafka: KafkaConnection | str, groups: Mapping[str, str], idle_ms: int) -> None:
        """
        :param groups: topic to the consumer group that reads it.
        :param idle_ms: how long nothing has to come before topics count as silent, wall clock.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._groups = dict(groups)
        self._idle_s = idle_ms / 1_000
        self._interval_s = self._idle_s / _CHECKS_PER_IDLE_TIME
        #: when the last check found all read, and since when the topics have had their ends
        self._found: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def start(self) -> None:
        """Starts to ask."""
        self._thread.start()

    def quiet_ms(self) -> int | None:
        """How long nothing has come, with everything read; None while that is shorter than the idle time, or not known."""
        found, now = self._found, time.monotonic()
        if found is None:
            return None
        checked, since = found
        if checked - since < self._idle_s or now - checked > 2 * self._interval_s + _TIMEOUT_S:
            return None
        return int(1_000 * (checked - since))

    def close(self) -> None:
        """Stops asking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)

    def _watch(self) -> None:
        ends: Ends | None = None
        since = time.monotonic()
        trouble = ""
        with GroupLag(self._kafka, self._groups, timeout_s=_TIMEOUT_S) as lag:
            while not self._stop.wait(self._interval_s):
                began = time.monotonic()
                try:
                    now, all_read = lag.all_read()
                except RilletError as error:
                    # Records that come when the broker is back were sent meanwhile: silence begins anew.
                    ends, self._found = None, None
                    if str(error) != trouble:
                        trouble = str(error)
                        log.warning("whether the topics are silent is not known: %s", trouble)
                    continue
                if now != ends:
                    ends, since = now, time.monotonic()
                self._found = (began, since) if all_read else None
                trouble = ""

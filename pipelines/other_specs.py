"""Records of the examples topic that a feature spec wrote that we do not know: passed over, counted and told, not one dead letter each.

After a spec was changed the topic still holds what was joined before. That is nothing that could be mended and sent
again: it stays in the topic, where a trainer of its own spec learns from it. What is told is how much of it there was,
and whether it still comes, since then the joiner runs on another spec than we do.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter as Tally

from prometheus_client import Counter

from rillet.schemas import FeatureSpec
from rillet.schemas.errors import SpecMismatchError
from rillet.trainer import BadRecord

log = logging.getLogger(__name__)


class OtherSpecs:
    """Counts records of unknown specs; filled by the reading thread, told by any other."""

    def __init__(self, spec: FeatureSpec, counter: Counter) -> None:
        """:param counter: of the service's metrics, counts every record that is passed over."""
        self._spec = spec
        self._counter = counter
        self._lock = threading.Lock()
        self._since_told: Tally[int] = Tally()
        self._seen: set[int] = set()

    def passes_over(self, bad: BadRecord) -> bool:
        """Whether a record that cannot be used is of an unknown spec; it is counted, and the first of a spec told at once."""
        if not isinstance(bad.error, SpecMismatchError):
            return False
        found = bad.error.found
        self._counter.inc()
        with self._lock:
            self._since_told[found] += 1
            first = found not in self._seen
            self._seen.add(found)
        if first:
            log.warning(
                "partition %d offset %d was joined under feature spec %#x, ours is %#x (%s): records of that spec are"
                " passed over and counted; they stay in the topic. To learn from that spec too, name its file in also_accepts of"
                " rillet.toml before its records come",
                bad.record.partition,
                bad.record.offset,
                found,
                self._spec.hash,
                self._spec.name,
            )
        return True

    def tell(self, lag: int) -> None:
        """Tells what was passed over since the last call, if anything.

        :param lag: records that are still to be read; 0 where those passed over are the newest.
        """
        with self._lock:
            told, self._since_told = self._since_told, Tally()
        for found, count in told.items():
            log.warning(
                "%s records of feature spec %#x were passed over%s",
                f"{count:,}",
                found,
                ""
                if lag
                else f"; they are among the newest of the topic: if more come, name that spec in also_accepts, or start the joiner on our spec {self._spec.hash:#x}",
            )

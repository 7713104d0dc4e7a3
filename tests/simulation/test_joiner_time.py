"""The same rows live, after an outage and read again from the beginning, whatever clocks and producers do.

Clocks of clients are ahead and behind, a producer of actions stalls, the broker is away, one partition has few records.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import ActionEvent, FeatureEvent
from tests.joiner.support import LATENESS_MS, SPEC, Arrival, action, feature
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import Row, oracle, rows_of, usable
from tests.simulation.joiner_reader import BUCKETS, Partition, Reader
from tests.simulation.joiner_traffic import PARTITIONS, Sent

pytestmark = pytest.mark.simulation

START_MS, LONG_MS = 1_000_000, 300_000
CONFIG = JoinerConfig(buckets=BUCKETS, slice_ms=5_000, action_wait_ms=120_000, max_ahead_ms=300_000)
IDLE_MS, HOLD_MS, DRIFT_MS = 10_000, 300_000, 60_000
#: a producer of actions sends nothing for so long, and then what it has kept
STALL_MS = 150_000


class Records:
    """What lies on the topics in the end, with the times at which it came there."""

    def __init__(self, seed: int, *, added_ms: int = 0) -> None:
        """:param added_ms: when each topic gets its second partition, to which some keys move then."""
        self._rng = np.random.default_rng(seed)
        self._added_ms = added_ms
        #: when they arrive, and when they would have with nothing in the way
        self._sent: list[tuple[int, int, Sent]] = []
        outage_ms = START_MS + int(self._rng.integers(0, LONG_MS))
        #: while the broker is away, in every second recording; it leads its partitions again one after the other
        self.outage = range(outage_ms, outage_ms + int(self._rng.integers(5_000, 60_000)) * (seed // 2 % 2))
        self._back_ms = {name: self.outage.stop + int(self._rng.integers(0, IDLE_MS - 2_500)) for name in PARTITIONS}
        self._stall_ms = START_MS + int(self._rng.integers(50_000, 120_000))
        for request in range(100):
            self._request(request)
        self.partitions: dict[str, list[tuple[int, Sent]]] = {name: [] for name in PARTITIONS}
        for at_ms, _, sent in sorted(self._sent, key=lambda sent: sent[:2]):
            self.partitions[sent.partition].append((at_ms, sent))

    def _request(self, request: int) -> None:
        rng = self._rng
        at_ms = START_MS + int(rng.integers(0, LONG_MS))
        # Clients whose clocks are ahead or behind, for the page and what is done on it.
        skew_ms = int(rng.integers(-60_000, 250_000)) if rng.random() < 0.1 else 0
        shown = feature(request, at_ms + max(skew_ms, 0), impressions=3)
        self._send("features", shown, at_ms)
        for index in range(3):
            for name, within_ms in (("watch", 9_000), ("like", 55_000)):
                if rng.random() < 0.4:
                    acted_ms = at_ms + int(rng.integers(0, within_ms))
                    ahead_ms = int(rng.integers(1_000, 600_000)) if rng.random() < 0.05 else max(skew_ms, 0)
                    self._send("actions", action(request, index, name, acted_ms + ahead_ms), acted_ms)

    def _send(self, topic: str, event: FeatureEvent | ActionEvent, sent_ms: int) -> None:
        at_ms = due_ms = sent_ms + int(self._rng.integers(0, LATENESS_MS))
        if topic == "actions":
            at_ms = _delayed(at_ms, self._stall_ms, self._stall_ms + STALL_MS)
        arrival = Arrival.of(event, ingest_ms=sent_ms)
        second = at_ms >= self._added_ms and crc32(arrival.key or b"") % 5 == 4  # it has few
        partition = f"{topic} {int(second)}"
        if self.outage:
            at_ms = _delayed(at_ms, self.outage.start, self._back_ms[partition])
        self._sent.append((at_ms, due_ms, Sent(partition, arrival, event.event_time_ms)))

    def due(self) -> list[Row]:
        """By the oracle, where nothing is late."""
        arrived = sorted((r for records in self.partitions.values() for r in records), key=lambda r: r[0])
        return oracle(SPEC, *usable(SPEC, [sent.arrival for _, sent in arrived], CONFIG.max_ahead_ms))


def _delayed(at_ms: int, begin_ms: int, end_ms: int) -> int:
    """When a record arrives that is kept from one time to another; it is sent in order then, and before what comes later."""
    since_ms, long_ms = at_ms - begin_ms, end_ms - begin_ms
    return end_ms + min(since_ms, long_ms) // 100 if 0 <= since_ms < long_ms + long_ms // 100 else at_ms


def joined(
    records: Records, folder: Path, *, begin_ms: int, per_step: int, added_ms: int = 0, found_ms: int = 0
) -> tuple[list[Row], int]:
    """The rows of a joiner that begins to read at a time, and how many actions were late.

    :param found_ms: when it finds the second partition of each topic.
    """
    engine = Engine(SPEC, CONFIG, folder)
    partitions = {name: Partition(of) for name, of in records.partitions.items()}
    for name in ("features 1", "actions 1"):
        partitions[name].added_ms, partitions[name].found_ms = added_ms, found_ms
    reader = Reader(engine, partitions, HOLD_MS, IDLE_MS, DRIFT_MS, begin_ms, outage=records.outage)
    while not reader.done:
        reader.step(per_step)
        reader.now_ms += 500
    engine.watermark(END_OF_TIME_MS)
    engine.joiner.close()
    return rows_of(SPEC, engine.blocks), engine.joiner.counters.late_actions


def test_rows_are_the_same_live_after_an_outage_and_from_the_beginning(seed: int, tmp_path: Path) -> None:
    records = Records(seed)
    due = records.due()
    ways = {"live": START_MS, "after an outage": START_MS + LONG_MS // 2, "from the beginning": START_MS + 10 * LONG_MS}
    for way, begin_ms in ways.items():
        rows, late = joined(records, tmp_path / way, begin_ms=begin_ms, per_step=(2, 50)[seed % 2])
        assert (rows, late) == (due, 0), way


def test_rows_are_the_same_where_partitions_are_added_and_found_minutes_later(seed: int, tmp_path: Path) -> None:
    added_ms = START_MS + 10_000 * (1 + seed % 20)
    records = Records(seed, added_ms=added_ms)
    rows, late = joined(
        records, tmp_path, begin_ms=START_MS, per_step=50, added_ms=added_ms, found_ms=added_ms + 120_000
    )
    assert (rows, late) == (records.due(), 0)

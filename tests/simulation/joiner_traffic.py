"""Applications that show and act, and a network that brings their records late, doubled and out of order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from zlib import crc32

import numpy as np

from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec
from tests.joiner.support import LATENESS_MS, Arrival, action, feature
from tests.simulation.harness import Simulation

PARTITIONS = ("features 0", "features 1", "actions 0", "actions 1")
#: Longer than LATENESS_MS, and so short that no request is forgotten before its records have come.
LONG_DELAY_MS = 40_000
#: The joiner's setting of that name.
MAX_AHEAD_MS = 15_000
#: Actions from before their impression come within this time after it, before any of its windows can have closed.
EARLY_FOR_MS = 8_000
#: Actions are done on requests shown at most so many requests ago: some of them after their windows.
REMEMBERED_REQUESTS = 10


@dataclass(frozen=True)
class Sent:
    """A record in a partition, with its timestamp."""

    partition: str
    arrival: Arrival
    timestamp_ms: int

    @property
    def reached_ms(self) -> int:
        """What watermarks are made of: the timestamp, and no later than when it was sent."""
        ingest_ms = self.arrival.ingest_ms
        return self.timestamp_ms if ingest_ms < 0 else min(self.timestamp_ms, ingest_ms)


@dataclass
class Traffic:
    """The records of both topics as they arrive in their partitions.

    Without ``delays`` no record arrives more than LATENESS_MS after it was sent, and no action after its windows closed.
    """

    simulation: Simulation
    spec: FeatureSpec
    delays: bool
    partitions: dict[str, list[Sent]] = field(default_factory=lambda: {name: [] for name in PARTITIONS})
    #: the records of all partitions in order of arrival
    arrived: list[Sent] = field(default_factory=list)
    #: (time of arrival, tie-breaker, record)
    on_the_way: list[tuple[int, int, Sent]] = field(default_factory=list)
    shown: list[FeatureEvent] = field(default_factory=list)
    _number: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def __post_init__(self) -> None:
        can = self.simulation.can
        can("show", 20, self.show)
        can("act", 40, self.act, when=lambda: bool(self.shown))
        can("act early", 4, self.act_early, when=lambda: self.since_shown_ms() < EARLY_FOR_MS)
        can("act twice", 10, self.act_twice, when=lambda: bool(self.shown))
        can("act by a wrong clock", 2, self.act_by_a_wrong_clock, when=lambda: bool(self.shown))
        can("show by a wrong clock", 1, self.show_by_a_wrong_clock)
        can("show again", 1, self.show_again, when=lambda: bool(self.shown))
        can("resend", 3, self.resend, when=lambda: bool(self.arrived))
        can("bad record", 2, self.send_bad_record, when=lambda: bool(self.shown))

    # -- applications --------------------------------------------------------------------------------------

    def show(self) -> None:
        rng = self.simulation.rng
        event = feature(len(self.shown), self.simulation.now_ms, impressions=int(rng.integers(1, 6)))
        logits, exposed = event.served_logits, None
        if self.simulation.chance(0.3):
            logits = None if self.simulation.chance(0.5) else np.where(rng.random(len(logits)) < 0.5, np.nan, logits)
        if self.simulation.chance(0.2):
            exposed = (rng.random(len(event.impression_ids)) < 0.6).astype(np.uint8)
        self.shown.append(replace(event, spec_hash=self.spec.hash, served_logits=logits, exposed=exposed))
        self.send("features", self.shown[-1])

    def act(self) -> None:
        """An action on a request of late, perhaps after its window."""
        self.send("actions", self.action_on(self.pick(), self.simulation.now_ms))

    def act_early(self) -> None:
        """An action whose clock goes wrong by up to twice what tasks tolerate: it is from before its impression."""
        event = self.shown[-1]
        self.send("actions", self.action_on(event, event.event_time_ms - int(self.simulation.rng.integers(1, 10_000))))

    def act_twice(self) -> None:
        """Two actions on a pair, of which the one that arrives first may be the later."""
        event, now_ms = self.pick(), self.simulation.now_ms
        second = self.action_on(event, now_ms)
        first_ms = max(now_ms - int(self.simulation.rng.integers(1, LATENESS_MS)), event.event_time_ms)
        self.send("actions", replace(second, event_time_ms=first_ms), sent_ms=first_ms)
        self.send("actions", second)

    def act_by_a_wrong_clock(self) -> None:
        """An action stamped ahead of when it is sent, perhaps by so much that it is refused."""
        self.send_stamped("actions", self.action_on(self.pick(), self.simulation.now_ms + self.ahead_ms()))

    def show_by_a_wrong_clock(self) -> None:
        """A request stamped ahead; what is done on it comes too early for it."""
        event = feature(1_000 + len(self.arrived), self.simulation.now_ms + self.ahead_ms(), impressions=2)
        self.send_stamped("features", replace(event, spec_hash=self.spec.hash))

    def ahead_ms(self) -> int:
        return int(self.simulation.rng.integers(1, 2 * MAX_AHEAD_MS))

    def send_stamped(self, topic: str, event: FeatureEvent | ActionEvent) -> None:
        """A record whose timestamp is its event time, and whose header says when it was sent."""
        now_ms = self.simulation.now_ms
        self.transmit(topic, Arrival.of(event, ingest_ms=now_ms), now_ms, event.event_time_ms)

    def show_again(self) -> None:
        """Another feature event of a request: the first to arrive counts."""
        event = self.pick()
        again = feature(int(event.request_id[1:]), event.event_time_ms, impressions=6)
        self.send("features", replace(again, spec_hash=self.spec.hash))

    def since_shown_ms(self) -> int:
        return self.simulation.now_ms - self.shown[-1].event_time_ms if self.shown else EARLY_FOR_MS

    def pick(self) -> FeatureEvent:
        """A request of late, mostly so new that its feature event may still be on the way."""
        recent = self.shown[-2:] if self.simulation.chance(0.6) else self.shown[-REMEMBERED_REQUESTS:]
        return recent[int(self.simulation.rng.integers(len(recent)))]

    def action_on(self, event: FeatureEvent, time_ms: int) -> ActionEvent:
        rng = self.simulation.rng
        index = 77 if self.simulation.chance(0.02) else int(rng.integers(len(event.impression_ids)))
        name = str(rng.choice(["watch", "like", "share", "scroll"], p=[0.44, 0.3, 0.24, 0.02]))
        value = float(rng.choice([-0.5, -0.0, 0.0, 0.5, 1.0, 1.5])) if self.simulation.chance(0.8) else None
        action_id = str(rng.choice(["", "a", "b", "c"])) if self.simulation.chance(0.3) else None
        request = int(event.request_id[1:]) + (1_000_000 if self.simulation.chance(0.02) else 0)
        return replace(action(request, index, name, time_ms), value=value, action_id=action_id)

    # -- network -------------------------------------------------------------------------------------------

    def send(self, topic: str, event: FeatureEvent | ActionEvent, sent_ms: int | None = None) -> None:
        now_ms = self.simulation.now_ms if sent_ms is None else sent_ms
        ingest_ms = now_ms if self.simulation.chance(0.5) else -1
        self.transmit(topic, Arrival.of(event, ingest_ms=ingest_ms), now_ms)

    def transmit(self, topic: str, arrival: Arrival, sent_ms: int, timestamp_ms: int | None = None) -> None:
        """The record arrives after a while, at the end of its key's partition."""
        limit_ms = LONG_DELAY_MS if self.delays and self.simulation.chance(0.3) else LATENESS_MS
        at_ms = max(self.simulation.now_ms, sent_ms + int(self.simulation.rng.integers(0, limit_ms)))
        partition = f"{topic} {crc32(arrival.key or b'') % 2}"
        sent = Sent(partition, arrival, sent_ms if timestamp_ms is None else timestamp_ms)
        heapq.heappush(self.on_the_way, (at_ms, self._number(), sent))

    def resend(self) -> None:
        """A producer sends a record once more, perhaps to the other topic."""
        sent = self.arrived[-1 - int(self.simulation.rng.integers(min(len(self.arrived), 50)))]
        topic = "features" if self.simulation.chance(0.5) else "actions"
        self.transmit(topic, sent.arrival, sent.reached_ms, sent.timestamp_ms)

    def send_bad_record(self) -> None:
        """A record that no row may be made of; the good one may come too."""
        event, now_ms = self.pick(), self.simulation.now_ms
        acted = action(int(event.request_id[1:]), 0, "watch", now_ms)
        bad = (
            Arrival(b"junk", event.request_id.encode()),
            Arrival.of(acted, key=b"user-7"),
            Arrival.of(event, key=b"user-7"),
            Arrival.of(replace(event, spec_hash=1)),
            Arrival.of(replace(acted, event_time_ms=now_ms + 5 * MAX_AHEAD_MS), ingest_ms=now_ms),
            Arrival.of(acted, ingest_ms=-5),
        )
        self.transmit("actions", bad[int(self.simulation.rng.integers(len(bad)))], now_ms)

    def deliver(self, until_ms: int) -> None:
        while self.on_the_way and self.on_the_way[0][0] <= until_ms:
            _, _, sent = heapq.heappop(self.on_the_way)
            self.partitions[sent.partition].append(sent)
            self.arrived.append(sent)

"""Requests and actions that come late, doubled and out of order, and a joiner that crashes while it reads them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from zlib import crc32

from rillet.audit.comparison import audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, RecordError, dump_spec, parse_spec
from tests.joiner.support import LATENESS_MS, SPEC, Arrival, action, feature
from tests.simulation.harness import Simulation
from tests.simulation.joiner_engine import Engine, MemoryState
from tests.simulation.joiner_oracle import oracle, rows_due, rows_of, usable

BUCKETS = 4
PARTITIONS = ("features 0", "features 1", "actions 0", "actions 1")
#: Longer than LATENESS_MS, and so short that no request is forgotten before its records have come.
LONG_DELAY_MS = 40_000
#: Actions from before their impression come within this time after it, before any of its windows can have closed.
EARLY_FOR_MS = 8_000
#: Actions are done on requests shown at most so many requests ago: some of them after their windows.
REMEMBERED_REQUESTS = 10
_NOT_YET_MS = -1
#: where each action that a task asks for ends
_FATES = (
    *("positives", "late_positives", "duplicate_actions", "late_actions", "early_actions", "outside_window"),
    *("unknown_impressions", "unknown_actions", "orphan_actions"),
)


@dataclass(frozen=True)
class Sent:
    """A record in a partition, with its timestamp, which watermarks are made of."""

    arrival: Arrival
    timestamp_ms: int


@dataclass
class Progress:
    """How far the joiner has read, and what came of it: this and the engine's state make a checkpoint."""

    #: records read, by partition
    positions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, 0))
    #: records read and the requests known by them, in order of arrival
    read: list[Sent] = field(default_factory=list)
    features: dict[str, FeatureEvent] = field(default_factory=dict)
    actions: set[ActionEvent] = field(default_factory=set)
    #: actions whose window was closed when they came
    late: list[ActionEvent] = field(default_factory=list)
    #: the highest watermark, up to which windows are closed
    closed_ms: int = _NOT_YET_MS
    refused: int = 0
    #: those of them that are feature events of requests that were known, and forgotten since (rule 14)
    refused_again: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Progress:
        return Progress(
            dict(self.positions),
            list(self.read),
            dict(self.features),
            set(self.actions),
            list(self.late),
            self.closed_ms,
            self.refused,
            self.refused_again,
            Counter(self.counts),
        )


@dataclass
class JoinerWorld:
    """Applications that show and act, a network, four partitions, and a joiner on an engine that crashes.

    What must hold, whatever the seed: the rows are those of the oracle and of the audit's plain join; every action is
    counted; and in the end nothing is left in the state. Half of the runs have records later than the watermark allows
    for, whose tasks drop them or emit late positives; some spill to disk, and some never crash.
    """

    simulation: Simulation
    folder: Path
    spec: FeatureSpec = field(init=False)
    config: JoinerConfig = field(init=False)
    engine: Engine = field(init=False)
    #: whether some records are delayed by more than LATENESS_MS
    delays: bool = field(init=False)
    #: whether the joiner crashes
    crashes: bool = field(init=False)
    spilled: int = 0
    progress: Progress = field(default_factory=Progress)
    saved: tuple[tuple[dict[int, MemoryState], int], Progress] = field(init=False)
    #: newest timestamp read from each partition since the last start; an engine that restarts knows none
    newest_ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, _NOT_YET_MS))
    partitions: dict[str, list[Sent]] = field(default_factory=lambda: {name: [] for name in PARTITIONS})
    #: (time of arrival, tie-breaker, partition, record)
    on_the_way: list[tuple[int, int, str, Sent]] = field(default_factory=list)
    shown: list[FeatureEvent] = field(default_factory=list)
    _number: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def __post_init__(self) -> None:
        rng, can = self.simulation.rng, self.simulation.can
        late = str(rng.choice(["drop", "emit"]))
        self.spec = parse_spec(dump_spec(SPEC).replace('late = "drop"', f'late = "{late}"'))
        self.config = JoinerConfig(
            buckets=BUCKETS,
            slice_ms=int(rng.choice([1_000, 5_000, 20_000])),
            memory_bytes=int(rng.choice([1 << 30, 40_000])),
            block_rows=16,
            action_wait_ms=120_000,
            late_retention_ms=60_000,
            max_ahead_ms=1_000,
        )
        self.delays = self.simulation.chance(0.5)
        self.crashes = self.simulation.chance(0.8)
        self.engine = Engine(self.spec, self.config, self.folder)
        self.saved = self.engine.checkpoint(), self.progress.copy()
        can("show", 20, self.show)
        can("act", 40, self.act, when=lambda: bool(self.shown))
        can("act early", 4, self.act_early, when=lambda: self.since_shown_ms() < EARLY_FOR_MS)
        can("act twice", 4, self.act_twice, when=lambda: bool(self.shown))
        can("show again", 1, self.show_again, when=lambda: bool(self.shown))
        can("resend", 3, self.resend, when=lambda: bool(self.progress.read))
        can("bad record", 2, self.send_bad_record, when=lambda: bool(self.shown))
        can("read", 90, self.read)
        can("watermark", 25, self.advance)
        can("checkpoint", 3, self.take_checkpoint)
        can("crash", 1.5, self.crash, when=lambda: self.crashes)

    # -- applications --------------------------------------------------------------------------------------

    def show(self) -> None:
        rng = self.simulation.rng
        event = feature(len(self.shown), self.simulation.now_ms, impressions=int(rng.integers(1, 6)))
        self.shown.append(replace(event, spec_hash=self.spec.hash))
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

    def show_again(self) -> None:
        """Another feature event of a request: the first to arrive counts."""
        event = self.pick()
        again = feature(int(event.request_id[1:]), event.event_time_ms, impressions=6)
        self.send("features", replace(again, spec_hash=self.spec.hash))

    def since_shown_ms(self) -> int:
        return self.simulation.now_ms - self.shown[-1].event_time_ms if self.shown else EARLY_FOR_MS

    def pick(self) -> FeatureEvent:
        """A request of late."""
        recent = self.shown[-REMEMBERED_REQUESTS:]
        return recent[int(self.simulation.rng.integers(len(recent)))]

    def action_on(self, event: FeatureEvent, time_ms: int) -> ActionEvent:
        rng = self.simulation.rng
        index = 77 if self.simulation.chance(0.02) else int(rng.integers(len(event.impression_ids)))
        name = str(rng.choice(["watch", "like", "scroll"], p=[0.49, 0.49, 0.02]))
        request = int(event.request_id[1:]) + (1_000_000 if self.simulation.chance(0.02) else 0)
        return action(request, index, name, time_ms)

    # -- network -------------------------------------------------------------------------------------------

    def send(self, topic: str, event: FeatureEvent | ActionEvent, sent_ms: int | None = None) -> None:
        now_ms = self.simulation.now_ms if sent_ms is None else sent_ms
        ingest_ms = now_ms if self.simulation.chance(0.5) else -1
        self.transmit(topic, Arrival.of(event, ingest_ms=ingest_ms), now_ms)

    def transmit(self, topic: str, arrival: Arrival, sent_ms: int) -> None:
        """The record arrives after a while, at the end of its key's partition."""
        limit_ms = LONG_DELAY_MS if self.delays and self.simulation.chance(0.3) else LATENESS_MS
        at_ms = max(self.simulation.now_ms, sent_ms + int(self.simulation.rng.integers(0, limit_ms)))
        partition = f"{topic} {crc32(arrival.key or b'') % 2}"
        heapq.heappush(self.on_the_way, (at_ms, self._number(), partition, Sent(arrival, sent_ms)))

    def resend(self) -> None:
        """A producer sends a record once more."""
        read = self.progress.read
        sent = read[-1 - int(self.simulation.rng.integers(min(len(read), 50)))]
        topic = "features" if self.simulation.chance(0.5) else "actions"
        self.transmit(topic, sent.arrival, sent.timestamp_ms)

    def send_bad_record(self) -> None:
        """A record that no row may be made of; the good one may come too."""
        event, now_ms = self.pick(), self.simulation.now_ms
        acted = action(int(event.request_id[1:]), 0, "watch", now_ms)
        bad = (
            Arrival(b"junk", event.request_id.encode()),
            Arrival.of(acted, key=b"user-7"),
            Arrival.of(event, key=b"user-7"),
            Arrival.of(replace(event, spec_hash=1)),
            Arrival.of(replace(acted, event_time_ms=now_ms + 5_000), ingest_ms=now_ms),
            Arrival.of(acted, ingest_ms=-5),
        )
        self.transmit("actions", bad[int(self.simulation.rng.integers(len(bad)))], now_ms)

    def deliver(self, until_ms: int) -> None:
        while self.on_the_way and self.on_the_way[0][0] <= until_ms:
            _, _, partition, sent = heapq.heappop(self.on_the_way)
            self.partitions[partition].append(sent)

    # -- the joiner's engine -------------------------------------------------------------------------------

    def read(self) -> None:
        """Some records of one partition; the others go on when their turn comes."""
        if busy := self.busy():
            name = str(self.simulation.rng.choice(busy))
            position = self.progress.positions[name]
            for sent in self.partitions[name][position : position + int(self.simulation.rng.integers(1, 12))]:
                self.progress.positions[name] += 1
                self.newest_ms[name] = max(self.newest_ms[name], sent.timestamp_ms)
                self.take(sent)

    def busy(self) -> list[str]:
        """The partitions that have something to read now."""
        self.deliver(self.simulation.now_ms)
        return [name for name, sent in self.partitions.items() if self.progress.positions[name] < len(sent)]

    def take(self, sent: Sent) -> None:
        arrival, progress = sent.arrival, self.progress
        progress.read.append(sent)
        key = arrival.key or b""
        features, actions = usable(self.spec, [arrival], self.config.max_ahead_ms)
        try:
            self.engine.record(crc32(key) % BUCKETS, arrival.data, arrival.ingest_ms, key)
        except RecordError:
            progress.refused += 1
            progress.refused_again += sum(event.request_id in progress.features for event in features)
            return
        for event in features:
            if event.request_id not in progress.features:
                progress.features[event.request_id] = event
                # What is due already closes with the engine's next watermark, which comes at once here, so that
                # there is no time in between in which an action is neither late nor not.
                self.engine.watermark(progress.closed_ms)
        for acted in actions:
            if acted not in progress.actions:
                progress.actions.add(acted)
                if self.is_closed(acted):
                    progress.late.append(acted)

    def is_closed(self, acted: ActionEvent) -> bool:
        """Whether the window that an action is for was closed before it came; one that waits has none yet."""
        event = self.progress.features.get(acted.request_id)
        windows_ms = [task.window_ms for task in self.spec.tasks if task.action == acted.action]
        if event is None or not windows_ms:
            return False
        slice_ms = self.config.slice_ms
        end_of_slice_ms = (event.event_time_ms // slice_ms + 1) * slice_ms
        return end_of_slice_ms + windows_ms[0] - 1 <= self.progress.closed_ms

    def advance(self) -> None:
        """The watermark of the slowest partition that has something to read, else of the one read furthest."""
        busy = [self.newest_ms[name] for name in self.busy()]
        watermark_ms = (min(busy) if busy else max(self.newest_ms.values())) - LATENESS_MS - 1
        if watermark_ms > 0:
            self.engine.watermark(watermark_ms)
            self.progress.closed_ms = max(self.progress.closed_ms, watermark_ms)

    def take_checkpoint(self) -> None:
        progress = self.progress.copy()
        progress.counts += Counter(self.engine.joiner.counters.as_dict())
        self.saved = self.engine.checkpoint(), progress

    def crash(self) -> None:
        """Memory and local store are gone; reading goes on from the checkpoint."""
        self.spilled += self.engine.joiner.store.spilled_entries
        state, progress = self.saved
        self.engine.restore(state)
        self.progress = progress.copy()
        self.newest_ms = dict.fromkeys(PARTITIONS, _NOT_YET_MS)

    # -- what must hold ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All that is on the way arrives and is read, the input ends, and the rows are judged."""
        self.deliver(END_OF_TIME_MS)
        while self.busy():
            self.simulation.now_ms += 100
            self.read()
            self.advance()
        self.engine.watermark(END_OF_TIME_MS)
        self.spilled += self.engine.joiner.store.spilled_entries
        self.progress.counts += Counter(self.engine.joiner.counters.as_dict())
        self.check_rows()
        self.check_counts()
        self.check_nothing_is_left()

    def check_rows(self) -> None:
        progress, blocks = self.progress, self.engine.blocks
        rows = rows_of(self.spec, blocks)
        features, actions = usable(self.spec, [sent.arrival for sent in progress.read], self.config.max_ahead_ms)
        assert rows == oracle(self.spec, features, actions, late=progress.late)
        plain = PlainJoin(self.spec, max_ahead_ms=self.config.max_ahead_ms, lateness_ms=LATENESS_MS)
        for sent in progress.read:
            plain.add_record(sent.arrival.data, sent.arrival.key, sent.arrival.ingest_ms, sent.timestamp_ms)
        expected = plain.result()
        report = audit_examples(expected, blocks, plain.actions)
        assert report.ok, report.lines()
        assert report.expected == report.found == len(rows)
        assert report.late_positive == progress.counts["late_positives"]
        # An action that comes twice is dropped twice; one whose request is forgotten by then is an orphan.
        assert report.late_dropped <= progress.counts["late_actions"] + progress.counts["orphan_actions"]
        assert expected.unusable == progress.refused - progress.refused_again
        if not self.delays:
            assert rows == rows_due(expected)
            assert report.late_dropped == report.late_positive == progress.counts["late_actions"] == 0

    def check_counts(self) -> None:
        progress, counts = self.progress, self.progress.counts
        features, actions = usable(self.spec, [sent.arrival for sent in progress.read], self.config.max_ahead_ms)
        assert counts["features"] + counts["duplicate_features"] + progress.refused_again == len(features)
        assert counts["actions"] == len(actions)
        ended = sum(counts[name] for name in _FATES)
        # A joiner that restarts cannot tell an action that was joined from an orphan once its request is forgotten.
        assert ended - counts["orphan_actions"] <= len(actions) <= ended
        assert self.crashes or ended == len(actions)

    def check_nothing_is_left(self) -> None:
        assert self.engine.joiner.store.used_bytes == 0
        for state in self.engine.states.values():
            assert not any(state.lists.values())
            assert not state.wake_ups
        self.engine.joiner.close()
        assert list(self.folder.iterdir()) == []

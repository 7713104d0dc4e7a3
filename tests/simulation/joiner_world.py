"""A joiner that crashes while it reads faulty traffic, and the judgement of its rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import get_args
from zlib import crc32

from rillet.audit.comparison import audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig, WaitingFullError
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, LabelKind, RecordError, encode
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass
from rillet.schemas.spec import LabelMode, LatePolicy
from tests.joiner.support import LATENESS_MS, SPEC, Arrival
from tests.simulation.harness import Simulation
from tests.simulation.joiner_engine import Engine, MemoryState
from tests.simulation.joiner_oracle import oracle, rows_due, rows_of, usable
from tests.simulation.joiner_traffic import LONG_DELAY_MS, MAX_AHEAD_MS, PARTITIONS, Sent, Traffic

BUCKETS = 4
_NOT_YET_MS = -1
#: rules for the rate of the first task's negatives
RATES: tuple[dict[str, RateBySlot | RateByScore], ...] = (
    {},
    {"rate_by_slot": RateBySlot("user", (RateClass(tuple(range(1, 20)), 0.2), RateClass(tuple(range(20, 30)), 1.0)))},
    {"rate_by_slot": RateBySlot("film", (RateClass(tuple(range(1, 500)), 0.9),))},
    {"rate_by_score": RateByScore(mean_score=0.4, floor=0.05)},
)
#: rules for the label of the second task
RULES = (None, AtLeast("count", 2), AtLeast("count", 3), AtLeast("sum", 2.5), AtLeast("value", 1.5))
#: where each action that a task asks for ends
_FATES = (
    *("positives", "corrections", "late_positives", "duplicate_actions", "late_actions", "early_actions"),
    *("outside_window", "unknown_impressions", "unknown_actions", "orphan_actions"),
    *("incomplete_actions", "ungathered_actions"),
)
#: what counts the rows of each kind
_COUNTED = {
    LabelKind.POSITIVE: "positives",
    LabelKind.NEGATIVE: "negatives",
    LabelKind.LATE_POSITIVE: "late_positives",
    LabelKind.CORRECTION: "corrections",
    LabelKind.PROVISIONAL: "provisional_negatives",
}


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
    counted; rows go out when the label mode of their task, drawn by seed, says so; and in the end nothing is left in the
    state. Half of the runs have records later than the watermark allows
    for, whose tasks drop them or emit late positives; some spill to disk, some have room for few actions to wait, and some never
    crash.
    """

    simulation: Simulation
    folder: Path
    spec: FeatureSpec = field(init=False)
    config: JoinerConfig = field(init=False)
    engine: Engine = field(init=False)
    traffic: Traffic = field(init=False)
    #: whether the joiner crashes
    crashes: bool = field(init=False)
    #: whether a partition with nothing to read holds the watermark back no longer
    idle_partitions: bool = field(init=False)
    spilled: int = 0
    progress: Progress = field(default_factory=Progress)
    saved: tuple[tuple[dict[int, MemoryState], int, set[int]], Progress] = field(init=False)
    #: newest timestamp read from each partition since the last start; an engine that restarts knows none
    newest_ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTITIONS, _NOT_YET_MS))

    def __post_init__(self) -> None:
        rng, can = self.simulation.rng, self.simulation.can
        late = str(rng.choice(get_args(LatePolicy)))
        modes = [str(rng.choice(get_args(LabelMode))) for _ in SPEC.tasks]
        tasks = [replace(task, late=late, labels=mode) for task, mode in zip(SPEC.tasks, modes, strict=True)]
        tasks[0] = replace(tasks[0], **RATES[int(rng.integers(len(RATES)))])
        if late == "correct" and modes[0] == "positives_first" and self.simulation.chance(0.7):
            tasks[0] = replace(tasks[0], negative_after_ms=int(rng.choice([0, 1_000, 5_000])))
        if self.simulation.chance(0.5):
            tasks[1] = replace(tasks[1], action=("like", "share"), at_least=RULES[int(rng.integers(len(RULES)))])
        self.spec = replace(SPEC, tasks=tuple(tasks))
        self.config = JoinerConfig(
            buckets=BUCKETS,
            slice_ms=int(rng.choice([1_000, 5_000, 20_000])),
            memory_bytes=int(rng.choice([1 << 30, 6_000, 1])),
            disk_tier=bool(rng.choice([True, False])),
            waiting_bytes=int(rng.choice([1 << 30, BUCKETS * 3_000])),
            block_rows=16,
            block_bytes=int(rng.choice([1 << 20, 700])),
            action_wait_ms=120_000,
            late_retention_ms=60_000,
            max_ahead_ms=MAX_AHEAD_MS,
        )
        self.traffic = Traffic(self.simulation, self.spec, delays=self.simulation.chance(0.5))
        self.crashes = self.simulation.chance(0.8)
        self.idle_partitions = self.simulation.chance(0.5)
        self.engine = Engine(
            self.spec,
            self.config,
            self.folder,
            step_requests=int(rng.choice([1, 3, 128])),
            at_once=self.simulation.chance(0.5),
        )
        self.saved = self.engine.checkpoint(), self.progress.copy()
        can("read", 90, self.read)
        can("watermark", 25, self.advance)
        can("checkpoint", 3, self.take_checkpoint)
        can("crash", 1.5, self.crash, when=lambda: self.crashes)
        can("lose", 1.5, self.lose)
        can("go on", 60, self.go_on, when=lambda: bool(self.engine.put_off))

    # -- the joiner's engine -------------------------------------------------------------------------------

    def read(self) -> None:
        """Some records of one partition; the others go on when their turn comes."""
        if busy := self.busy():
            name = str(self.simulation.rng.choice(busy))
            position = self.progress.positions[name]
            for sent in self.traffic.partitions[name][position : position + int(self.simulation.rng.integers(1, 12))]:
                self.progress.positions[name] += 1
                self.newest_ms[name] = max(self.newest_ms[name], sent.reached_ms)
                self.take(sent)

    def busy(self) -> list[str]:
        """The partitions that have something to read now."""
        self.traffic.deliver(self.simulation.now_ms)
        return [name for name, sent in self.traffic.partitions.items() if self.progress.positions[name] < len(sent)]

    def take(self, sent: Sent) -> None:
        arrival, progress = sent.arrival, self.progress
        progress.read.append(sent)
        key = arrival.key or b""
        features, actions = usable(self.spec, [arrival], self.config.max_ahead_ms)
        before = self.engine.counts
        try:
            self.engine.record(crc32(key) % BUCKETS, arrival.data, arrival.ingest_ms, key)
        except WaitingFullError:
            # To the join it is a record that cannot be used, which has moved the watermark all the same.
            assert not features
            progress.read[-1] = replace(sent, arrival=Arrival(b"", key))
            progress.refused += 1
            return
        except RecordError:
            progress.refused += 1
            progress.refused_again += sum(event.request_id in progress.features for event in features)
            return
        assert sum(joiner.buckets.waiting_bytes for joiner in self.engine.joiners) <= self.config.waiting_bytes
        for event in features:
            if event.request_id not in progress.features:
                progress.features[event.request_id] = event
                # What is due already closes with the engine's next watermark, which comes at once here, so that
                # there is no time in between in which an action is neither late nor not.
                self.engine.watermark(progress.closed_ms)
        for acted in actions:
            if acted not in progress.actions:
                progress.actions.add(acted)
                if self.is_closed(acted) and not (
                    # A close takes steps: before that of its request has run, an action is in time.
                    crc32(key) % BUCKETS in self.engine.put_off and self.was_used(before)
                ):
                    progress.late.append(acted)

    def was_used(self, before: Counter[str]) -> bool:
        """Whether the record that has just come has made a pair positive that was open."""
        now = self.engine.counts
        return any(now[name] > before[name] for name in ("positives", "corrections"))

    def is_closed(self, acted: ActionEvent) -> bool:
        """Whether the window that an action is for was closed before it came; one that waits has none yet."""
        event = self.progress.features.get(acted.request_id)
        windows_ms = [task.closes_ms for task in self.spec.tasks if acted.action in task.actions]
        if event is None or not windows_ms:
            return False
        slice_ms = self.config.slice_ms
        end_of_slice_ms = (event.event_time_ms // slice_ms + 1) * slice_ms
        return end_of_slice_ms + windows_ms[0] - 1 <= self.progress.closed_ms

    def advance(self) -> None:
        """The watermark of the slowest partition.

        Where partitions may be idle, that of those that have something to read, else of the one read furthest.
        """
        busy = [self.newest_ms[name] for name in (self.busy() if self.idle_partitions else PARTITIONS)]
        watermark_ms = (min(busy) if busy else max(self.newest_ms.values())) - LATENESS_MS - 1
        if watermark_ms > 0:
            self.engine.watermark(watermark_ms)
            self.progress.closed_ms = max(self.progress.closed_ms, watermark_ms)

    def take_checkpoint(self) -> None:
        progress = self.progress.copy()
        progress.counts += self.engine.counts
        self.saved = self.engine.checkpoint(), progress

    def crash(self) -> None:
        """Memory and local store are gone; reading goes on from the checkpoint, at another parallelism maybe."""
        self.spilled += self.spills()
        state, progress = self.saved
        self.engine.restore(state, subtasks=int(self.simulation.rng.integers(1, 3)))
        self.progress = progress.copy()
        self.newest_ms = dict.fromkeys(PARTITIONS, _NOT_YET_MS)

    def lose(self) -> None:
        """A subtask's memory and local store are gone, and nothing else."""
        joiners = self.engine.joiners
        joiners[int(self.simulation.rng.integers(len(joiners)))].lose()

    def go_on(self) -> None:
        """Some steps of what was put off."""
        for bucket in sorted(self.engine.put_off):
            self.engine.go_on(bucket)

    def spills(self) -> int:
        return sum(joiner.store.spilled_entries for joiner in self.engine.joiners)

    # -- what must hold ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All that is on the way arrives and is read, the input ends, and the rows are judged."""
        self.traffic.deliver(END_OF_TIME_MS)
        while self.busy():
            self.simulation.now_ms += 100
            self.read()
            self.advance()
        self.engine.watermark(END_OF_TIME_MS)
        self.spilled += self.spills()
        self.progress.counts += self.engine.counts
        # A run of some hundred steps spills where memory is small.
        assert (self.spilled > 0) == (self.config.memory_bytes < 1 << 20)
        self.check_rows()
        self.check_order()
        self.check_counts()
        self.check_nothing_is_left()

    def check_rows(self) -> None:
        progress, blocks = self.progress, self.engine.blocks
        rows = rows_of(self.spec, blocks)
        assert all(len(encode(block)) <= self.config.block_bytes or len(block) == 1 for block in blocks)
        features, actions = usable(self.spec, [sent.arrival for sent in progress.read], self.config.max_ahead_ms)
        assert rows == oracle(self.spec, features, actions, late=progress.late)
        plain = PlainJoin(
            self.spec,
            max_ahead_ms=self.config.max_ahead_ms,
            lateness_ms=LATENESS_MS,
            idle_delay_ms=LONG_DELAY_MS if self.idle_partitions else None,
        )
        for sent in progress.read:
            plain.add_record(
                sent.arrival.data, sent.arrival.key, sent.arrival.ingest_ms, sent.timestamp_ms, topic=sent.partition
            )
        expected = plain.result()
        # An action that comes twice is dropped twice; one whose request is forgotten by then is an orphan.
        allowed = progress.counts["late_actions"] + progress.counts["orphan_actions"]
        report = audit_examples(expected, blocks, plain.actions, allowed_late=allowed)
        assert report.ok, report.lines()
        assert report.expected == report.found == len(rows)
        assert report.late_positive == progress.counts["late_positives"]
        assert expected.unusable == progress.refused - progress.refused_again
        # After a short wait for negatives most actions are late, and so is one that found no room to wait and was sent again.
        room = self.config.waiting_bytes == 1 << 30
        if not self.traffic.delays and room and self.spec.tasks[0].negative_after_ms is None:
            assert rows == rows_due(expected)
            assert report.late_dropped == report.late_positive == 0
            # A record that is sent again may come late to a pair whose rule it has not made true.
            assert progress.counts["late_actions"] == 0 or any(task.at_least for task in self.spec.tasks)

    def check_order(self) -> None:
        """Provisional negatives before corrections; all that a request sends of an aligned window at once."""
        sent: list[tuple[int, str, int, LabelKind]] = []
        for block in self.engine.blocks:
            tasks = block.mask.reshape(len(block), -1).argmax(axis=1).tolist()
            requests = [block.request_ids[at] for at in block.request_index]
            kinds = map(LabelKind, block.label_kind.tolist())
            sent += zip(tasks, requests, block.impression_ids.tolist(), kinds, strict=True)
        for task, of_task in enumerate(self.spec.tasks):
            rows = [(request, kind) for index, request, _, kind in sent if index == task]
            late = {(a.request_id, a.impression_id) for a in self.progress.late if a.action in of_task.actions}
            on_time = [
                request
                for index, request, impression, kind in sent
                if index == task and (kind is LabelKind.NEGATIVE or (request, impression) not in late)
            ]
            if of_task.labels == "aligned":
                assert [request for request, _ in groupby(on_time)] == list(dict.fromkeys(on_time))
            if of_task.labels == "immediate":
                corrected = set()
                for request, kind in rows:
                    if kind is LabelKind.PROVISIONAL:
                        assert request not in corrected
                    else:
                        corrected.add(request)

    def check_counts(self) -> None:
        progress, counts = self.progress, self.progress.counts
        kinds = Counter(LabelKind(kind) for block in self.engine.blocks for kind in block.label_kind.tolist())
        for kind, name in _COUNTED.items():
            assert counts[name] == kinds[kind], name
        features, actions = usable(self.spec, [sent.arrival for sent in progress.read], self.config.max_ahead_ms)
        assert counts["features"] + counts["duplicate_features"] + progress.refused_again == len(features)
        assert counts["actions"] == len(actions)
        ended = sum(counts[name] for name in _FATES)
        assert ended == len(actions)

    def check_nothing_is_left(self) -> None:
        engine, blocks = self.engine, len(self.engine.blocks)
        assert not engine.put_off
        for bucket, state in engine.states.items():
            assert not any(key.startswith("w/") for key in state.entries), "no action waits after the end"
            # What was drained is remembered as long as ever, and then forgotten.
            while engine.joiner_of(bucket).next_due_ms(bucket, state) is not None:
                engine.blocks += engine.joiner_of(bucket).advance(bucket, END_OF_TIME_MS - 1, state)
            assert not state.entries
        assert len(engine.blocks) == blocks
        assert all(joiner.store.used_bytes == joiner.buckets.waiting_bytes == 0 for joiner in engine.joiners)
        engine.close()
        assert list(self.folder.iterdir()) == []

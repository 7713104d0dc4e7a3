"""A feature spec that is changed under traffic: producers, joiner and trainer take the new one in any order.

Requests are joined to their end under the spec that was the joiner's when they came. So the rows are those of the oracle
for each request under that spec: none is lost, none is there twice, and no record is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rillet.audit.comparison import AuditReport, audit_eras
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, SpecRegistry, decode, encode
from rillet.schemas.conversion import SpecConversion, without_idle_rows
from tests.joiner.specs import CHANGES, SpecEngine
from tests.joiner.support import LATENESS_MS, SPEC, stream
from tests.simulation.joiner_oracle import Row, oracle, rows_of

pytestmark = pytest.mark.simulation

REQUESTS = 40
#: of the records, where the joiner and where producers take the new spec
MIDDLE, EARLIER, LATER = 0.5, 0.3, 0.7


class Run:
    """Records in order, read by a joiner under whichever spec is its own then."""

    def __init__(self, seed: int, folder: Path, old: FeatureSpec, new: FeatureSpec, config: JoinerConfig) -> None:
        self.rng = np.random.default_rng(seed)
        self.old, self.new = old, new
        _, _, records = stream(seed, REQUESTS)
        self.records = [(bucket, time_ms, decode(data)) for bucket, time_ms, data in records]
        #: the spec under which each request was joined, and its event
        self.joined: dict[str, tuple[FeatureSpec, FeatureEvent]] = {}
        self.known = SpecRegistry(old, [new]), SpecRegistry(new, [old])
        self.engine = SpecEngine(self.known[0], config, folder)
        self.current = old
        self.newest_ms = 0
        #: what was read last of each record, by its place
        self.sent: dict[int, bytes] = {}

    def use(self, spec: FeatureSpec) -> None:
        """The joiner is started again with a spec."""
        self.current = spec
        self.engine.restart(self.known[spec is self.new])

    def read(self, first: int, last: int, producer: Callable[[int], FeatureSpec]) -> None:
        for at in range(first, last):
            bucket, time_ms, event = self.records[at]
            if isinstance(event, FeatureEvent):
                self.joined.setdefault(event.request_id, (self.current, event))
                # What a producer of the new spec sends: SPEC's columns are those of the old one.
                event = SpecConversion(SPEC, spec).feature(event) if (spec := producer(at)) is not SPEC else event
            self.sent[at] = encode(event)
            self.engine.record(bucket, self.sent[at])
            self.newest_ms = max(self.newest_ms, time_ms)
            if self.rng.random() < 0.3:
                self.engine.watermark(self.newest_ms - LATENESS_MS - 1)

    def finish(self) -> None:
        self.engine.watermark(self.newest_ms)
        if self.rng.random() < 0.5:
            self.engine.watermark(END_OF_TIME_MS)
            # A drain leaves requests remembered, and no timer.
            self.use(self.current)
        for bucket in self.engine.states:
            self.engine.touch(bucket)
        self.engine.watermark(self.newest_ms + 1_000_000)
        assert self.engine.empty
        self.engine.joiner.close()

    def expected(self) -> list[Row]:
        """The rows of every request, under the spec that it was joined under."""
        actions = [event for _, _, event in self.records if isinstance(event, ActionEvent)]
        rows = [row for spec, event in self.joined.values() for row in oracle(spec, [event], _of(actions, event))]
        return sorted(rows)

    def audited(self) -> AuditReport:
        """The audit, which is told of both specs and of nothing else."""
        specs = [self.new, self.old] if self.current is self.old else [self.old, self.new]
        joins = [PlainJoin(spec, also_accepts=specs, lateness_ms=LATENESS_MS) for spec in specs]
        for at, data in sorted(self.sent.items()):
            _, time_ms, event = self.records[at]
            for join in joins:
                assert join.add_record(data, event.request_id.encode(), timestamp_ms=time_ms)
        return audit_eras([join.result() for join in joins], lambda: [(0, block) for block in self.engine.blocks])

    def learned(self, spec: FeatureSpec) -> list[Row]:
        """The rows that a trainer reads that knows both specs, whichever was the joiner's when they went out."""
        specs = SpecRegistry(spec, [self.old, self.new])
        taught = [without_idle_rows(specs.block(block)) for block in self.engine.blocks]
        return rows_of(spec, [block for block in taught if len(block)])


def _change(seed: int) -> FeatureSpec:
    """All of them in turn, each with each order of joiner and producers: their numbers have no common factor."""
    return list(CHANGES.values())[seed % len(CHANGES)]


def _of(actions: list[ActionEvent], event: FeatureEvent) -> list[ActionEvent]:
    return [action for action in actions if action.request_id == event.request_id]


def _common(rows: list[Row], *specs: FeatureSpec) -> list[Row]:
    """The rows of tasks that all specs have."""
    names = set.intersection(*({task.name for task in spec.tasks} for spec in specs))
    return [row for row in rows if row[2] in names]


CONFIG = JoinerConfig(buckets=4, slice_ms=0, block_rows=16, action_wait_ms=20_000)


def test_rows_are_those_of_the_spec_that_each_request_was_joined_under(seed: int, tmp_path: Path) -> None:
    new = _change(seed)
    producers = (EARLIER, MIDDLE, LATER)[seed % 3]
    run = Run(seed, tmp_path, SPEC, new, CONFIG)
    size = len(run.records)
    run.read(0, size // 2, lambda at: new if at >= producers * size else SPEC)
    saved, joined, newest_ms = run.engine.checkpoint(), dict(run.joined), run.newest_ms
    run.read(size // 2, size // 2 + 10, lambda at: SPEC)
    # A crash: the first start with the new spec goes on from the last checkpoint of the old one.
    run.joined, run.newest_ms = joined, newest_ms
    run.engine.restore(saved, run.known[1])
    run.current = new
    run.read(size // 2, size * 3 // 4, lambda at: new if at >= producers * size else SPEC)
    run.use(new)
    run.read(size * 3 // 4, size, lambda at: new)
    run.finish()
    report = run.audited()
    assert report.ok, "\n".join(report.lines())
    assert report.requests == len(run.joined)
    specs = {spec.hash for spec, _ in run.joined.values()}
    assert specs == {SPEC.hash, new.hash}
    assert _common(run.learned(new), SPEC, new) == _common(run.expected(), SPEC, new)
    # Of a task that is new there are the rows of requests that came since.
    assert run.learned(new) == [row for row in run.expected() if row[2] in {task.name for task in new.tasks}]
    # A trainer that is still on the old spec has the same rows, of the tasks that it knows.
    assert _common(run.learned(SPEC), SPEC, new) == _common(run.expected(), SPEC, new)


def test_a_spec_may_be_taken_and_taken_back_any_number_of_times(seed: int, tmp_path: Path) -> None:
    new = _change(seed)
    run = Run(seed, tmp_path, SPEC, new, CONFIG)
    cuts = [0, *sorted(run.rng.choice(len(run.records), 6, replace=False).tolist()), len(run.records)]
    silent = []
    for part, (first, last) in enumerate(pairwise(cuts)):
        before = len(run.joined), len(run.engine.blocks)
        run.use(new if part % 2 else SPEC)
        run.read(first, last, lambda at: new if run.rng.random() < 0.5 else SPEC)
        silent.append(len(run.joined) > before[0] and len(run.engine.blocks) == before[1])
    run.finish()
    # A spec that has written no row until the next one is known to the joiner alone.
    if not any(silent[:-1]):
        report = run.audited()
        assert report.ok, "\n".join(report.lines())
    # Rows of a task that only one spec has are left out while the other is the joiner's.
    assert _common(run.learned(new), SPEC, new) == _common(run.expected(), SPEC, new)
    assert set(run.learned(new)) <= set(run.expected())

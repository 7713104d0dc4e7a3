"""Seeded streams with reordering, duplicates, spills and crashes against the plain oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.audit.comparison import audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import FeatureEvent, decode, dump_spec, encode, parse_spec
from tests.joiner.support import LATENESS_MS, SPEC, key_of, stream
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import oracle, rows_of


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("memory_bytes", [1 << 30, 40_000])
def test_any_interleaving_with_crashes_gives_the_rows_of_the_oracle(
    tmp_path: Path, seed: int, memory_bytes: int
) -> None:
    features, actions, arrivals = stream(seed, requests=150)
    config = JoinerConfig(slice_ms=5_000, memory_bytes=memory_bytes, block_rows=16, action_wait_ms=120_000)
    engine = Engine(SPEC, config, tmp_path)
    rng = np.random.default_rng(100 + seed)
    saved, position = engine.checkpoint(), 0
    newest, spilled, crashes, at = -LATENESS_MS, 0, 0, 0
    saved_newest = newest
    while at < len(arrivals):
        bucket, time_ms, data = arrivals[at]
        engine.record(bucket, data)
        newest, at = max(newest, time_ms), at + 1
        dice = rng.random()
        if dice < 0.2:
            engine.watermark(newest - LATENESS_MS - 1)
        elif dice < 0.25:
            saved, position, saved_newest = engine.checkpoint(), at, newest
        elif dice < 0.27 and crashes < 10:
            spilled += engine.joiner.store.spilled_entries
            engine.restore(saved)
            at, newest, crashes = position, saved_newest, crashes + 1
    engine.watermark(END_OF_TIME_MS)
    spilled += engine.joiner.store.spilled_entries
    assert rows_of(SPEC, engine.blocks) == oracle(SPEC, features, actions)
    assert crashes > 3
    assert (spilled > 50) == (memory_bytes < 1 << 20)
    assert engine.joiner.counters.late_actions == 0
    engine.joiner.close()
    assert list(tmp_path.iterdir()) == []


def test_blocks_do_not_depend_on_when_the_watermarks_come(tmp_path: Path) -> None:
    _, _, arrivals = stream(5, requests=100)
    config = JoinerConfig(slice_ms=5_000, action_wait_ms=120_000)
    outcomes = []
    for every in (1, 17, 10_000):
        engine = Engine(SPEC, config, tmp_path / str(every))
        newest = 0
        for count, (bucket, time_ms, data) in enumerate(arrivals):
            engine.record(bucket, data)
            newest = max(newest, time_ms)
            if count % every == 0:
                engine.watermark(newest - LATENESS_MS - 1)
        engine.watermark(END_OF_TIME_MS)
        outcomes.append(sorted(encode(block) for block in engine.blocks))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_state_is_empty_once_everything_has_expired(tmp_path: Path) -> None:
    _, _, arrivals = stream(6, requests=50)
    engine = Engine(SPEC, JoinerConfig(slice_ms=5_000), tmp_path)
    for bucket, _, data in arrivals:
        engine.record(bucket, data)
    engine.watermark(END_OF_TIME_MS)
    assert engine.joiner.store.used_bytes == 0
    for state in engine.states.values():
        assert not any(state.lists.values())
        assert not state.wake_ups


#: how far the watermark runs ahead of the events, so that many of them are late
AHEAD_MS = 5_000


@pytest.mark.parametrize("policy", ["drop", "emit"])
@pytest.mark.parametrize("seed", range(3))
def test_late_records_give_rows_that_the_audit_accepts(tmp_path: Path, policy: str, seed: int) -> None:
    spec = parse_spec(dump_spec(SPEC).replace('late = "drop"', f'late = "{policy}"'))
    _, _, arrivals = stream(20 + seed, requests=150)
    config = JoinerConfig(slice_ms=1_000, action_wait_ms=120_000, late_retention_ms=60_000)
    engine, plain = Engine(spec, config, tmp_path), PlainJoin(spec)
    rng = np.random.default_rng(seed)
    newest = 0
    late = dict.fromkeys(("late_actions", "late_positives"), 0)

    def count() -> None:
        for name in late:
            late[name] += getattr(engine.joiner.counters, name)

    for bucket, time_ms, data in arrivals:
        event = decode(data)
        if isinstance(event, FeatureEvent):
            event = replace(event, spec_hash=spec.hash)
        newest = max(newest, time_ms + AHEAD_MS)
        plain.add_record(encode(event), key_of(data), timestamp_ms=newest)
        engine.record(bucket, encode(event))
        engine.watermark(newest)
        if rng.random() < 0.02:
            count()
            engine.restore(engine.checkpoint())
    engine.watermark(END_OF_TIME_MS)
    count()
    report = audit_examples(plain.result(), engine.blocks, plain.actions)
    assert report.ok, report.lines()
    assert report.late_positive == late["late_positives"]
    # A late action that comes twice is dropped twice.
    assert report.late_dropped <= late["late_actions"]
    assert report.late_dropped + report.late_positive > 10
    engine.joiner.close()

"""The joiner's adapter to Flink: keyed state over restarts, keys, settings, metrics, and the local disk."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, JoinerError, JoinMetrics, StoreError
from rillet.operators.joiner_function import JoinFunction
from rillet.operators.key_groups import bucket_keys
from rillet.schemas import (
    SpecRegistry,
    encode,
)
from rillet.schemas.label_rules import AtLeast
from tests.joiner.full_disk import full_disk
from tests.joiner.specs import SpecEngine
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, key_of, stream
from tests.operators.joiner_runner import FLINK, Metrics, Runner, Silence, of, record
from tests.simulation.joiner_oracle import oracle, rows_of


@pytest.mark.parametrize("slice_ms", [5_000, 600])
def test_state_survives_restarts(tmp_path: Path, slice_ms: int) -> None:
    features, actions, arrivals = stream(11, requests=120)
    config = JoinerConfig(slice_ms=slice_ms, action_wait_ms=120_000)
    runner = Runner(config, tmp_path)
    newest = 0
    for count, (bucket, time_ms, data) in enumerate(arrivals):
        runner.send(record(data, key_of(data)), bucket)
        newest = max(newest, time_ms)
        if count % 7 == 0:
            runner.advance(newest - LATENESS_MS - 1)
        if count % 61 == 60:
            runner.restart()
    runner.advance(END_OF_TIME_MS)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, features, actions)
    assert runner.letters == []
    assert {key[0] for entries in runner.keyed.entries.values() for key in entries} <= set("rp"), "nothing waits"


def test_keys_are_read_in_both_execution_modes(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(buckets=64), tmp_path)
    runner.keyed.get_current_key = lambda: (bucket_keys(64)[5],)  # type: ignore[method-assign,assignment,return-value]
    runner.send(record(encode(feature(1, 5)), b"r1"))
    runner.send(record(encode(action(1, 0, "watch", 6)), b"r1"))
    assert runner.blocks[0].bucket == 5


def test_settings_that_cannot_work_are_refused_when_the_job_is_built() -> None:
    with pytest.raises(JoinerError, match="action_wait_ms: 4999 is less than early_ms"):
        JoinFunction(SpecRegistry(SPEC), JoinerConfig(action_wait_ms=4_999), FLINK)


def test_what_is_counted_becomes_flinks_metrics_within_a_second(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(slice_ms=5_000), tmp_path)
    for value in (
        *(of(feature(1, 5_000)), of(action(1, 0, "watch", 6_000)), of(action(1, 0, "CLICK", 6_000))),
        *(of(action(9, 0, "like", 6_000)), of(action(1, 77, "like", 6_000)), record(b"junk", b"r1")),
        record(encode(replace(feature(2, 5_000), spec_hash=3)), b"r2"),
    ):
        runner.send(value)
    assert runner.metric("actions") == 0
    runner.wait(1_000)
    counted = {name.removeprefix("rillet_joiner."): c.count for name, c in runner.keyed.metrics.counters.items()}
    assert {name: count for name, count in counted.items() if count} == {
        **{"features": 1, "actions": 4, "positives": 1, "unknown_actions": 1, "unknown_impressions": 1},
        **{"unknown_action.CLICK.count": 1, "refused.DecodeError.count": 1, "refused.SpecMismatchError.count": 1},
        **{"dead_letters": 2, "examples": 1, "open_requests": 1, "next_close_ms": 19_999},
        **{"unmatched_actions": 1, "waiting_actions": 1, "waiting_bytes": 874, "oldest_waiting_ms": 5_000},
        "reads.memory.count": 2,
    }
    runner.advance(19_999)
    runner.send(of(action(1, 0, "CLICK", 6_000)))
    runner.wait(1_000)
    assert (runner.metric("watermark_ms"), runner.metric("next_close_ms")) == (19_999, 69_999)
    runner.advance(END_OF_TIME_MS)
    assert (runner.metric("watermark_ms"), runner.metric("open_requests"), runner.metric("orphan_actions")) == (
        19_999,
        1,
        1,
    )
    assert (runner.metric("waiting_actions"), runner.metric("oldest_waiting_ms")) == (0, 0)


def test_counts_are_reported_with_records_too_where_timers_do_not_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    runner, reports = Runner(JoinerConfig(slice_ms=5_000), tmp_path), []
    report = runner.function._metrics.report
    monkeypatch.setattr(runner.function._metrics, "report", lambda time_ms: reports.append(report(time_ms)))
    runner.keyed.watermark = 4_000
    for number in range(2_000):
        clock[0] += 0.005
        runner.send(of(action(number, 0, "CLICK", 6_000)))
    assert 1_700 < runner.metric("actions") < 2_000
    assert runner.metric("watermark_ms") == 4_000
    assert 5 <= len(reports) <= 10, "at most one per second"


def test_the_disk_tier_of_a_task_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(memory_bytes=1), tmp_path)
    for number in range(3):
        runner.send(of(feature(number, 20_500)))
        assert len(list(tmp_path.glob("rillet-joiner-*/tier"))) == 1
        local = runner.function._local
        assert local is not None
        local._unlock()  # as when its process ends
        runner.restart()
    runner.function.close()
    assert list(tmp_path.iterdir()) == []


def test_values_of_actions_are_metrics_by_task_also_on_requests_of_an_earlier_spec(tmp_path: Path) -> None:
    watch, like = SPEC.tasks
    old = replace(SPEC, tasks=(replace(watch, at_least=AtLeast("sum", 9.0)), like))
    new = replace(old, sampling_seed=8)
    engine = SpecEngine(SpecRegistry(old), JoinerConfig(slice_ms=5_000), tmp_path)
    engine.record(0, encode(replace(feature(1, 5_000), spec_hash=old.hash)))
    engine.restart(SpecRegistry(new, [old]))
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.record(0, encode(replace(feature(2, 5_000), spec_hash=new.hash)))
    for value in (None, 1.0, -0.0):
        engine.record(0, encode(replace(action(2, 0, "watch", 6_000), value=value)))
    metrics = Metrics()
    JoinMetrics(metrics, engine.joiner)
    counted = {name: counter.count for name, counter in metrics.counters.items() if "value" in name}
    assert counted == {"rillet_joiner.valueless.watch.count": 2, "rillet_joiner.valued.watch.count": 2}


@pytest.mark.parametrize("when", [0, 150])
def test_rows_do_not_depend_on_the_disk(tmp_path: Path, when: int) -> None:
    """Full from the start on, or failing in the middle."""
    features, actions, arrivals = stream(11, requests=120)
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=120_000, memory_bytes=10_000), tmp_path)
    newest, store = 0, runner.function._joiner._current.store
    with full_disk(100) if not when else nullcontext():
        for count, (bucket, time_ms, data) in enumerate(arrivals):
            if count == when > 0:
                assert store._disk is not None
                store._disk._db.close()
            runner.send(record(data, key_of(data)), bucket)
            newest = max(newest, time_ms)
            if count % 7 == 0:
                runner.advance(newest - LATENESS_MS - 1)
        runner.advance(END_OF_TIME_MS)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, features, actions)
    assert store._disk is None
    runner.function.close()
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_cannot_be_opened_is_closed_all_the_same_and_leaves_nothing(tmp_path: Path) -> None:
    """Of the two errors Flink would tell the second."""
    (tmp_path / "file").touch()
    config = JoinerConfig(disk_tier=True)
    function = JoinFunction(SpecRegistry(SPEC), config, FLINK, local_dir=str(tmp_path / "file"))
    with pytest.raises(StoreError, match="--local-dir"):
        function.open(Runner(config, tmp_path / "other").keyed)
    function.close()

    class Away(Silence):
        def start(self) -> None:
            raise JoinerError("no client can be made")

    away: Any = Away
    function = JoinFunction(SpecRegistry(SPEC), config, FLINK, away, str(tmp_path / "local"))
    with pytest.raises(JoinerError, match="no client"):
        function.open(Runner(config, tmp_path / "other").keyed)
    assert list((tmp_path / "local").iterdir()) == []
    function.close()

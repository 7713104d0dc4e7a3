"""The joiner as the engine calls it: what it refuses, what it keeps and rebuilds. The rules of the join: test_rules_of_*.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, JoinerError
from rillet.joiner.slices import MAX_OPEN_SLICES
from rillet.schemas import (
    ActionEvent,
    DecodeError,
    LabelKind,
    RecordError,
    SpecMismatchError,
    dump_spec,
    encode,
    parse_spec,
)
from rillet.schemas.spec import LabelMode
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, stream, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import oracle, rows_of

CONFIG = JoinerConfig(slice_ms=1_000, action_wait_ms=30_000)
WATCH, LIKE = 0, 1


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(SPEC, CONFIG, tmp_path)


def test_a_positive_goes_out_with_its_action_and_not_with_the_window(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)), ingest_ms=5_100)
    assert engine.blocks == []
    engine.record(0, encode(action(1, 2, "watch", 6_000)), ingest_ms=6_100)
    (block,) = engine.blocks
    assert rows_of(SPEC, [block]) == [("r1", 102, "watch", 1, 0.5, 6_000, LabelKind.POSITIVE)]
    assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (5_100, 6_100)
    assert block.feature_time_ms.tolist() == [5_000]


@pytest.mark.parametrize("kind", ["features", "actions"])
def test_slices_are_bounded_while_state_grows_and_a_refused_record_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("rillet.joiner.slices.MAX_OPEN_SLICES", 5)

    def record(number: int, time_ms: int) -> bytes:
        event = feature(number, time_ms) if kind == "features" else action(number, 0, "watch", time_ms)
        return encode(event)

    for number in range(5):
        engine.record(0, record(number, 7_200_000 * number))
    before, counts = engine.checkpoint(), engine.joiner.counters.as_dict()
    with pytest.raises(RecordError, match="event_time_ms: 500000000 would open slice 6 of its bucket"):
        engine.record(0, record(6, 500_000_000))
    assert (engine.checkpoint(), engine.joiner.counters.as_dict()) == (before, counts)
    engine.record(0, record(7, 7_200_001))  # of a slice that is open
    engine.record(1, record(8, 500_000_000))  # another bucket
    engine.watermark(1_000_000)  # forgets the first slice, and there is room again
    engine.record(0, record(9, 500_000_000))
    assert engine.joiner.counters.as_dict()[kind] == 8


def test_an_action_whose_feature_never_comes_is_counted_as_orphan(engine: Engine) -> None:
    engine.record(0, encode(action(1, 1, "like", 6_000)))
    engine.watermark(6_999 + 30_000 - 1)
    assert engine.joiner.counters.orphan_actions == 0
    engine.watermark(6_999 + 30_000)
    assert engine.joiner.counters.orphan_actions == 1
    assert not engine.states[0].entries


def test_a_feature_later_than_some_windows_gives_their_negatives_at_once(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 20_500)))
    engine.watermark(20_999 + 10_000)
    del engine.blocks[:]
    late = feature(2, 20_600, impressions=12)
    engine.record(0, encode(late))
    assert engine.blocks
    assert rows_of(SPEC, engine.blocks) == [r for r in oracle(SPEC, [late], []) if r[2] == "watch"]


def test_bad_records_are_refused_with_a_reason_and_change_nothing(engine: Engine) -> None:
    good = feature(1, 5_000)
    fields = {name: getattr(good, name) for name in good.__slots__}
    cases = [
        (b"", DecodeError, "unknown schema"),
        (encode(good)[:-3], DecodeError, "malformed|after its end|no whole number"),
        (encode(type(good)(**fields | {"spec_hash": 1})), SpecMismatchError, "spec_hash"),
        (encode(type(good)(**fields | {"item_fids": good.item_fids[:-1]})), RecordError, "item fids"),
        (encode(type(good)(**fields | {"dense": np.array([1, np.nan, 2], np.float32)})), RecordError, "dense"),
        (encode(type(good)(**fields | {"event_time_ms": 4 * 10**12})), RecordError, "max_ahead_ms"),
        (encode(type(good)(**fields | {"impression_ids": np.zeros(3, np.int64)})), RecordError, "impression_ids"),
        (encode(ActionEvent("r1", 5_000, 100, "watch", value=float("inf"))), RecordError, "value"),
        (encode(type(good)(**fields | {"item_lengths": np.zeros(6, np.uint16)})), RecordError, "item lengths"),
    ]
    for data, error, reason in cases:
        with pytest.raises(error, match=reason):
            engine.record(0, data, ingest_ms=5_000)
    assert engine.states[0] == type(engine.states[0])()
    assert engine.blocks == []


@pytest.mark.parametrize("ingest_ms", [-2, 10**15, 10**30])
def test_an_absurd_ingest_time_is_refused_before_anything_changes(engine: Engine, ingest_ms: int) -> None:
    with pytest.raises(RecordError, match="ingest_ms"):
        engine.record(0, encode(feature(1, 5_000)), ingest_ms=ingest_ms)
    assert engine.joiner.counters.features == 0


def test_a_job_that_goes_on_after_a_drain_labels_what_comes_then(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(action(9, 0, "watch", 5_000)))
    engine.watermark(END_OF_TIME_MS)
    assert engine.joiner.counters.orphan_actions == 1
    engine.restore(engine.checkpoint())
    del engine.blocks[:]
    engine.record(0, encode(action(3, 0, "watch", 6_500)))
    engine.record(0, encode(feature(3, 6_000)))
    engine.record(0, encode(action(3, 1, "like", 6_500)))
    engine.watermark(END_OF_TIME_MS)
    acted = [action(3, 0, "watch", 6_500), action(3, 1, "like", 6_500)]
    assert rows_of(SPEC, engine.blocks) == oracle(SPEC, [feature(3, 6_000)], acted)


@pytest.mark.parametrize("change", [{"slice_ms": 2_000}, {"buckets": 8}, {"action_wait_ms": 100_000}])
def test_state_written_under_another_configuration_is_refused(
    engine: Engine, tmp_path: Path, change: dict[str, int]
) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    other = Engine(SPEC, replace(CONFIG, **change), tmp_path)
    other.states = engine.states
    with pytest.raises(JoinerError, match="kept state was written with other settings than now"):
        other.record(0, encode(feature(2, 5_000)))


def test_a_longer_retention_does_not_make_a_joiner_take_again_what_it_has_forgotten(tmp_path: Path) -> None:
    spec = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "correct"'))
    short, long = (replace(CONFIG, action_wait_ms=200_000, late_retention_ms=ms) for ms in (0, 100_000))
    engine, other = Engine(spec, short, tmp_path / "a"), Engine(spec, long, tmp_path / "b")
    data = encode(replace(feature(1, 5_000), spec_hash=spec.hash))
    engine.record(0, data)
    engine.watermark(90_000)
    with pytest.raises(RecordError, match="later than every label window"):
        engine.record(0, data)
    other.states = engine.states
    with pytest.raises(JoinerError, match=r"late_retention_ms 100000, action_wait_ms 200000\): go on with those"):
        other.record(0, data)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_an_action_that_was_joined_waits_no_more_once_its_request_is_forgotten(
    tmp_path: Path, crash: bool, again: bool
) -> None:
    engine = Engine(SPEC, replace(CONFIG, action_wait_ms=200_000), tmp_path)
    for time_ms in (5_500, 7_500):
        engine.record(0, encode(action(1, 0, "watch", time_ms)))
        engine.record(0, encode(action(1, 1, "watch", time_ms)))
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(66_000)  # the request is forgotten; the slices of its actions live on
    assert engine.joiner.counters.positives == 2
    orphans = engine.joiner.counters.orphan_actions
    if crash:
        engine.restore(engine.checkpoint())
    engine.record(0, encode(action(2, 0, "watch", 5_600)))  # a bucket is rebuilt when it is touched
    if again:
        engine.record(0, encode(feature(1, 8_000)))  # its id again, which its old actions would be valid for
    engine.watermark(END_OF_TIME_MS)
    orphans += engine.joiner.counters.orphan_actions
    assert (sum(row[3] == 1 for row in rows_of(SPEC, engine.blocks)), orphans) == (2, 1)


def test_settings_that_give_the_numbers_no_other_meaning_may_change(engine: Engine, tmp_path: Path) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    other = Engine(SPEC, replace(CONFIG, memory_bytes=1, block_rows=3), tmp_path)
    other.states = engine.states
    other.record(0, encode(action(1, 0, "watch", 5_500)))
    other.watermark(END_OF_TIME_MS)
    assert rows_of(SPEC, other.blocks) == oracle(SPEC, [feature(1, 5_000)], [action(1, 0, "watch", 5_500)])


def test_a_record_under_another_key_is_refused_with_both(engine: Engine) -> None:
    with pytest.raises(RecordError, match="key: b'user-7' is not the request_id 'r1'"):
        engine.record(0, encode(feature(1, 5_000)), key=b"user-7")


def test_waiting_actions_keep_the_order_of_their_arrival_over_restarts(engine: Engine) -> None:
    # Later slices first: read back slice by slice they would come in the opposite order.
    times = [9_000, 7_000, 8_000, 6_000]
    for index, time_ms in enumerate(times):
        engine.record(0, encode(action(1, 0, "watch", time_ms)))
        engine.record(0, encode(action(1, 1, "watch", times[-1 - index])))
        engine.restore(engine.checkpoint())
    engine.record(0, encode(feature(1, 5_000)))
    assert [(row[1], row[5]) for row in rows_of(SPEC, engine.blocks)] == [(100, 9_000), (101, 6_000)]


def test_every_block_row_of_negatives_is_counted(tmp_path: Path) -> None:
    engine = Engine(SPEC, replace(CONFIG, block_rows=2), tmp_path)
    engine.record(0, encode(feature(1, 5_000, impressions=9)))
    engine.watermark(END_OF_TIME_MS)
    assert max(len(block) for block in engine.blocks) == 2
    assert engine.joiner.counters.negatives == sum(len(block) for block in engine.blocks)


@pytest.mark.parametrize("step_requests", [3, 128])
def test_blocks_do_not_depend_on_when_the_watermarks_come(tmp_path: Path, step_requests: int) -> None:
    _, _, arrivals = stream(5, requests=100)
    config = JoinerConfig(slice_ms=5_000, action_wait_ms=120_000)
    outcomes = []
    for every in (1, 17, 10_000):
        engine = Engine(SPEC, config, tmp_path / str(every), step_requests=step_requests)
        newest = 0
        for count, (bucket, time_ms, data) in enumerate(arrivals):
            engine.record(bucket, data)
            newest = max(newest, time_ms)
            if count % every == 0:
                engine.watermark(newest - LATENESS_MS - 1)
        engine.watermark(END_OF_TIME_MS)
        outcomes.append(sorted(encode(block) for block in engine.blocks))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_an_action_that_nobody_asks_for_is_counted_by_its_name_and_one_of_a_history_apart(tmp_path: Path) -> None:
    history = '[[context]]\nname = "bought"\nslot = 2\nkind = "history"\nof = "film"\naction = "buy"\nby = "user"\nmax_values = 3\n'
    spec = parse_spec(dump_spec(SPEC).replace("[[item]]", history + "[[item]]", 1))
    engine = Engine(spec, CONFIG, tmp_path)
    for name in ("buy", "WATCH", "WATCH", "zoom in"):
        engine.record(0, encode(action(1, 0, name, 6_000)))
    counters = engine.joiner.counters
    assert (counters.actions, counters.history_actions, counters.unknown_actions) == (4, 1, 3)
    assert engine.joiner.unknown_actions.as_dict() == {"WATCH": 2, "zoom_in": 1}


def test_a_bucket_says_what_is_due_next_and_what_it_has_seen(engine: Engine) -> None:
    joiner, state = engine.joiner, engine.states[0]
    assert joiner.next_due_ms(0, state) is None
    assert joiner.buckets.next_close_ms(0) is None
    engine.record(0, encode(feature(1, 5_500)))
    engine.record(0, encode(action(2, 0, "like", 7_700)))
    assert (joiner.next_due_ms(0, state), joiner.newest_ms(0, state)) == (15_999, 7_000)
    assert (joiner.buckets.next_close_ms(0), joiner.buckets.next_close_ms(15_999)) == (15_999, 65_999)
    assert joiner.buckets.open_requests == 1
    engine.watermark(15_999)
    assert joiner.next_due_ms(0, state) == 7_999 + 30_000
    engine.watermark(65_999)
    assert joiner.next_due_ms(0, state) is None
    assert (joiner.newest_ms(0, state), joiner.buckets.open_requests) == (65_999, 0)


def test_actions_wait_in_the_counts_until_their_feature_event_comes_or_they_are_given_up(engine: Engine) -> None:
    for request, time_ms in ((1, 6_500), (1, 6_000), (2, 7_000), (3, 8_000)):
        engine.record(0, encode(action(request, 0, "like", time_ms)))
    joiner = engine.joiner
    assert (joiner.buckets.waiting_actions, joiner.buckets.oldest_waiting_ms(), joiner.counters.unmatched_actions) == (
        4,
        6_000,
        4,
    )
    engine.record(0, encode(feature(1, 5_000)))
    assert (joiner.buckets.waiting_actions, joiner.buckets.oldest_waiting_ms(), joiner.counters.matched_later) == (
        2,
        7_000,
        2,
    )
    engine.restore(engine.checkpoint())
    joiner = engine.joiner
    engine.record(0, encode(feature(4, 9_000)))  # the bucket is touched
    assert (joiner.buckets.waiting_actions, joiner.buckets.oldest_waiting_ms(), joiner.counters.unmatched_actions) == (
        2,
        7_000,
        0,
    )
    engine.watermark(8_999 + 30_000)
    assert (joiner.buckets.waiting_actions, joiner.buckets.oldest_waiting_ms(), joiner.counters.orphan_actions) == (
        0,
        None,
        2,
    )
    engine.record(0, encode(action(5, 0, "like", 7_000)))  # has waited for too long as it comes
    assert (joiner.buckets.waiting_actions, joiner.counters.unmatched_actions, joiner.counters.orphan_actions) == (
        0,
        1,
        3,
    )


@pytest.mark.parametrize("steps", range(9))
@pytest.mark.parametrize("modes", [("aligned", "immediate"), ("immediate", "aligned"), ("positives_first", "aligned")])
def test_a_drain_in_the_middle_of_closes_that_are_due_together_sends_each_row_once(
    tmp_path: Path, modes: tuple[LabelMode, LabelMode], steps: int
) -> None:
    spec = with_labels(SPEC, *modes)
    spec = replace(spec, tasks=tuple(replace(task, window_ms=10_000) for task in spec.tasks))
    engine = Engine(spec, CONFIG, tmp_path, step_requests=1, at_once=False)
    shown = [replace(feature(number, 5_000 + number), spec_hash=spec.hash) for number in range(3)]
    for event in shown:
        engine.record(0, encode(event))
    engine.watermark(16_000)
    for _ in range(steps):
        if engine.put_off:
            engine.go_on(0)
    engine.restore(engine.checkpoint())
    engine.watermark(END_OF_TIME_MS)
    assert rows_of(spec, engine.blocks) == oracle(spec, shown, [])


def test_an_action_is_late_once_the_step_of_its_request_has_run_and_not_before(tmp_path: Path) -> None:
    engine = Engine(SPEC, CONFIG, tmp_path, step_requests=1, at_once=False)
    for number in (1, 2):
        engine.record(0, encode(feature(number, 5_000)))
    engine.watermark(15_999)
    engine.go_on(0)
    for number in (1, 2):
        engine.record(0, encode(action(number, 0, "watch", 6_000)))
    counters = engine.joiner.counters
    assert (counters.late_actions, counters.positives) == (1, 1)
    engine.watermark(END_OF_TIME_MS)
    acts = [action(number, 0, "watch", 6_000) for number in (1, 2)]
    shown = [feature(number, 5_000) for number in (1, 2)]
    assert rows_of(SPEC, engine.blocks) == oracle(SPEC, shown, acts, late=acts[:1])


def test_the_engine_is_not_asked_for_requests_of_a_bucket_that_is_known_as_a_whole(engine: Engine) -> None:
    for number in range(20):
        engine.record(0, encode(feature(number, 5_000 + number)))
        engine.record(0, encode(action(number, 0, "watch", 6_000)))
        engine.record(0, encode(action(100 + number, 0, "watch", 6_000)))
    assert engine.states[0].calls["get"] == 0
    engine.restore(engine.checkpoint())
    calls = engine.states[0].calls
    engine.record(0, encode(feature(50, 9_000)))
    assert calls["get"] == 32 + 1, "what waits, in as many slots as there are, and whether it was there"
    calls.clear()
    engine.record(0, encode(feature(49, 9_000)))
    assert calls["get"] == 1
    engine.watermark(80_000)  # what is of before the start is forgotten
    engine.record(0, encode(feature(51, 81_000)))
    calls.clear()
    engine.record(0, encode(feature(52, 81_000)))
    engine.record(0, encode(action(51, 0, "watch", 81_500)))
    assert calls["get"] == 0


@pytest.mark.parametrize(("order", "timers"), [("any", 30), ("backwards", MAX_OPEN_SLICES)])
def test_records_that_name_any_times_cost_a_bounded_header_and_few_timers(
    engine: Engine, order: str, timers: int
) -> None:
    state, event = engine.states[0], feature(1, 5_000, impressions=1)
    times = np.random.default_rng(1).permutation(1_200) if order == "any" else np.arange(1_200)[::-1]
    refused = 0
    for number, time in enumerate(times.tolist()):
        shown = replace(event, request_id=f"r{number}", event_time_ms=7_200_000 * (1 + time))
        try:
            engine.joiner.on_event(0, shown, b"", -1, state)
        except RecordError:
            refused += 1
    assert refused == 1_200 - MAX_OPEN_SLICES
    assert len(state.wake_ups) <= timers
    assert len(state.header or b"") <= 16 * MAX_OPEN_SLICES + 64

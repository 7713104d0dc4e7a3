"""The join's rules, one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, JoinerError, SliceSchedule
from rillet.schemas import (
    ActionEvent,
    DecodeError,
    FeatureSpec,
    LabelKind,
    RecordError,
    SpecMismatchError,
    dump_spec,
    encode,
    parse_spec,
)
from tests.joiner.support import SPEC, Engine, action, feature, oracle, rows_of

CONFIG = JoinerConfig(slice_ms=1_000, action_wait_ms=30_000)
WATCH, LIKE = 0, 1


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(SPEC, CONFIG, tmp_path)


def emitting(text: str) -> FeatureSpec:
    return parse_spec(dump_spec(SPEC).replace('late = "drop"', f'late = "{text}"'))


def test_a_positive_goes_out_with_its_action_and_not_with_the_window(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)), ingest_ms=5_100)
    assert engine.blocks == []
    engine.record(0, encode(action(1, 2, "watch", 6_000)), ingest_ms=6_100)
    (block,) = engine.blocks
    assert rows_of(SPEC, [block]) == [("r1", 102, "watch", 1, 0.5, 6_000)]
    assert block.label_kind.tolist() == [LabelKind.POSITIVE]
    assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (5_100, 6_100)
    assert block.feature_time_ms.tolist() == [5_000]


def test_a_row_carries_the_columns_of_its_own_impression(engine: Engine) -> None:
    event = feature(9, 1_000, impressions=4)
    engine.record(0, encode(event))
    for index in range(4):
        engine.record(0, encode(action(9, index, "like", 1_500)))
    assert event.item_lengths is not None
    assert event.served_logits is not None
    offset = 0
    for index, block in enumerate(engine.blocks):
        lengths = event.item_lengths.reshape(4, -1)[index]
        assert block.lengths is not None
        assert block.lengths.tolist() == [1, *lengths.tolist()]
        expected = np.concatenate([event.context_fids, event.item_fids[offset : offset + lengths.sum()]])
        assert block.fids.tolist() == expected.tolist()
        assert block.dense.tolist() == [event.dense[index]]
        assert block.served_logits is not None
        assert block.served_logits.tolist() == event.served_logits.reshape(4, -1)[index].tolist()
        offset += lengths.sum()


def test_negatives_wait_for_the_window_of_their_own_task(engine: Engine) -> None:
    event = feature(1, 5_000, impressions=12)
    engine.record(0, encode(event))
    engine.record(0, encode(action(1, 0, "watch", 5_001)))
    del engine.blocks[:]
    engine.watermark(5_999 + 10_000 - 1)
    assert engine.blocks == []
    engine.watermark(5_999 + 10_000)
    assert {row[2] for row in rows_of(SPEC, engine.blocks)} == {"watch"}
    engine.watermark(5_999 + 60_000)
    assert rows_of(SPEC, engine.blocks) == [
        row for row in oracle(SPEC, [event], [action(1, 0, "watch", 5_001)]) if row[3] == 0
    ]


def test_an_action_before_its_feature_waits_for_it(engine: Engine) -> None:
    engine.record(0, encode(action(1, 1, "like", 6_000)))
    assert engine.blocks == []
    engine.record(0, encode(feature(1, 5_000)))
    assert rows_of(SPEC, engine.blocks) == [("r1", 101, "like", 1, 1.0, 6_000)]


def test_an_action_whose_feature_never_comes_is_counted_as_orphan(engine: Engine) -> None:
    engine.record(0, encode(action(1, 1, "like", 6_000)))
    engine.watermark(6_999 + 30_000 - 1)
    assert engine.joiner.counters.orphan_actions == 0
    engine.watermark(6_999 + 30_000)
    assert engine.joiner.counters.orphan_actions == 1
    assert not any(engine.states[0].lists.values())


def test_an_action_after_its_window_is_no_positive(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(action(1, 0, "watch", 14_999)))
    engine.record(0, encode(action(1, 1, "watch", 15_000)))
    assert [row[1] for row in rows_of(SPEC, engine.blocks)] == [100]
    assert engine.joiner.counters.outside_window == 1


def test_repeated_actions_and_features_make_one_row(engine: Engine) -> None:
    for _ in range(2):
        engine.record(0, encode(feature(1, 5_000)))
        engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.watermark(END_OF_TIME_MS)
    assert rows_of(SPEC, engine.blocks) == oracle(SPEC, [feature(1, 5_000)], [action(1, 0, "watch", 6_000)])
    assert engine.joiner.counters.duplicate_features == 1
    assert engine.joiner.counters.duplicate_actions == 1


def test_the_late_policy_decides_on_an_action_that_comes_after_its_negatives(tmp_path: Path) -> None:
    for policy, expected in (("drop", []), ("emit", [LabelKind.LATE_POSITIVE])):
        spec = emitting(policy)
        config = replace(CONFIG, late_retention_ms=60_000)
        engine = Engine(spec, config, tmp_path / policy)
        event = feature(1, 5_000)
        data = encode(type(event)(**{n: getattr(event, n) for n in event.__slots__} | {"spec_hash": spec.hash}))
        engine.record(0, data)
        engine.watermark(5_999 + 10_000)
        del engine.blocks[:]
        engine.record(0, encode(action(1, 0, "watch", 14_000)))
        assert [kind for block in engine.blocks for kind in block.label_kind.tolist()] == expected
        assert engine.joiner.counters.late_actions == (policy == "drop")


def test_a_feature_later_than_some_windows_gives_their_negatives_at_once(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 20_500)))
    engine.watermark(20_999 + 10_000)
    del engine.blocks[:]
    late = feature(2, 20_600, impressions=12)
    engine.record(0, encode(late))
    assert engine.blocks
    assert rows_of(SPEC, engine.blocks) == [r for r in oracle(SPEC, [late], []) if r[2] == "watch"]


def test_a_feature_later_than_every_window_is_refused_because_it_may_be_a_redelivery(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(5_999 + 60_000)
    with pytest.raises(RecordError, match="later than every label window"):
        engine.record(0, encode(feature(1, 5_000)))


@pytest.mark.parametrize(("policy", "negatives"), [("emit", True), ("discard", False)])
def test_the_end_of_input_has_the_meaning_that_was_configured(tmp_path: Path, policy: str, negatives: bool) -> None:
    config = replace(CONFIG, negatives_at_end=policy)
    engine = Engine(SPEC, config, tmp_path)
    engine.record(0, encode(feature(1, 5_000, impressions=8)))
    engine.watermark(END_OF_TIME_MS)
    assert bool(engine.blocks) is negatives
    assert engine.joiner.counters.discarded_at_end == (0 if negatives else 16)


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


def test_unknown_actions_and_impressions_are_counted(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(action(1, 0, "scroll", 5_001)))
    engine.record(0, encode(action(1, 77, "watch", 5_001)))
    assert engine.blocks == []
    assert engine.joiner.counters.unknown_actions == 1
    assert engine.joiner.counters.unknown_impressions == 1


@pytest.mark.parametrize("ingest_ms", [-2, 10**15, 10**30])
def test_an_absurd_ingest_time_is_refused_before_anything_changes(engine: Engine, ingest_ms: int) -> None:
    with pytest.raises(RecordError, match="ingest_ms"):
        engine.record(0, encode(feature(1, 5_000)), ingest_ms=ingest_ms)
    assert engine.joiner.counters.features == 0


def test_a_record_under_another_key_than_its_request_is_refused(engine: Engine) -> None:
    with pytest.raises(RecordError, match="key: b'user-7' is not the request_id 'r1'"):
        engine.joiner.on_record(0, b"user-7", encode(feature(1, 5_000)), -1, engine.states[0])


def test_a_job_that_goes_on_after_a_drain_labels_what_comes_then(engine: Engine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(action(9, 0, "watch", 5_000)))
    engine.watermark(END_OF_TIME_MS)
    assert engine.joiner.counters.orphan_actions == 1
    engine.restore(engine.checkpoint())
    del engine.blocks[:]
    with pytest.raises(RecordError, match="a drain has closed"):
        engine.record(0, encode(feature(2, 5_100)))
    engine.record(0, encode(action(3, 0, "watch", 6_500)))
    engine.record(0, encode(feature(3, 6_000)))
    engine.record(0, encode(action(3, 1, "like", 6_500)))
    engine.watermark(END_OF_TIME_MS)
    acted = [action(3, 0, "watch", 6_500), action(3, 1, "like", 6_500)]
    assert rows_of(SPEC, engine.blocks) == oracle(SPEC, [feature(3, 6_000)], acted)


@pytest.mark.parametrize("change", [{"slice_ms": 2_000}, {"buckets": 8}])
def test_state_written_under_another_configuration_is_refused(
    engine: Engine, tmp_path: Path, change: dict[str, int]
) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    other = Engine(SPEC, replace(CONFIG, **change), tmp_path)
    other.states = engine.states
    with pytest.raises(JoinerError, match="kept state is of another feature spec, slice_ms or number of buckets"):
        other.record(0, encode(feature(2, 5_000)))


def test_settings_that_give_the_numbers_no_other_meaning_may_change(engine: Engine, tmp_path: Path) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    other = Engine(SPEC, replace(CONFIG, action_wait_ms=100_000, memory_bytes=1, block_rows=3), tmp_path)
    other.states = engine.states
    other.record(0, encode(action(1, 0, "watch", 5_500)))
    other.watermark(END_OF_TIME_MS)
    assert rows_of(SPEC, other.blocks) == oracle(SPEC, [feature(1, 5_000)], [action(1, 0, "watch", 5_500)])


def test_slices_too_short_for_the_longest_window_are_refused_with_a_good_length(tmp_path: Path) -> None:
    with pytest.raises(JoinerError, match=r"slice_ms: slices of 100 ms kept for 60000 ms are 602.*set 237 or more"):
        Engine(SPEC, replace(CONFIG, slice_ms=100), tmp_path)
    assert SliceSchedule(SPEC, replace(CONFIG, slice_ms=237)).live_slices <= 256
    assert SliceSchedule(SPEC, replace(CONFIG, slice_ms=0)).slice_ms == 60_000 // 16
